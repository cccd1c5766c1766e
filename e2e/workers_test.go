package e2e

import (
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// orders are n installs as a panel writes them.
func orders(t *testing.T, n int) (bodies [][]byte) {
	t.Helper()
	_, key := keyPair(t)
	for i := range n {
		bodies = append(bodies, install(i+1, key).json(t))
	}
	return bodies
}

// Two workers share a database and a broker; one of them dies in the middle of its work.
func TestTwoWorkersAndOneIsKilled(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	const machines = 40
	url := testserver.RabbitMQ(t)
	// With a few slots each, neither can take all the work for itself.
	s := newSite(t, siteConfig{pools: 2, slots: 8, lease: 5 * time.Second, postgres: testserver.PostgreSQL(t), rabbitmq: url})
	one, two := s.serve("one"), s.serve("two")
	panel := listen(t, url)
	publish(t, url, orders(t, machines)...)

	// Both have ended steps, and the first has begun some that it has not ended.
	testnet.Until(t, 60*time.Second, "both workers to be in the middle of it", func() bool {
		ended, begun := map[string]int{}, 0
		for _, a := range s.journal() {
			switch {
			case a.Outcome != "open":
				ended[processOf(a.Actor)]++
			case processOf(a.Actor) == pid(one):
				begun++
			}
		}
		return ended[pid(one)] > 10 && ended[pid(two)] > 10 && begun > 0 && panel.count("slipway.run.done") >= machines/5
	})
	// A batch that a busy broker confirms too late is sent again; two workers that publish at once repeat a third of all.
	if again, all := panel.repeats(), len(panel.heard()); again > all/8 {
		t.Errorf("%d of %d events were heard again before anybody died: one worker at a time publishes", again, all)
	}
	_ = one.Kill()
	s.done(two, machines, 2*time.Minute)
	testnet.Until(t, 30*time.Second, "every order's last event", func() bool { return panel.count("slipway.run.done") == machines })
	panel.inOrder(t)
	t.Logf("of %d events, %d were heard again", len(panel.heard()), panel.repeats())
	if n := panel.count("slipway.run.accepted"); n != machines {
		t.Errorf("%d orders were accepted, %d were sent", n, machines)
	}
	s.counted(machines)
	s.bootedOnce()
	if n := s.pools[0].sim.Calls()["VM.start_on"] + s.pools[1].sim.Calls()["VM.start_on"]; n != machines {
		t.Errorf("%d starts were asked for, want %d", n, machines)
	}
}
