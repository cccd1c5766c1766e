package e2e

import (
	"testing"
	"time"

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
	t.Parallel()
	const machines = 40
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{pools: 2, lease: 3 * time.Second, postgres: testserver.PostgreSQL(t), rabbitmq: url})
	one, two := s.serve("one"), s.serve("two")
	panel := listen(t, url)
	publish(t, url, orders(t, machines)...)

	// Both have ended steps, and the first is at work.
	testnet.Until(t, 60*time.Second, "both workers to be in the middle of it", func() bool {
		done := map[string]int{}
		atWork := false
		for _, a := range s.journal() {
			done[processOf(a.Actor)]++
			atWork = atWork || processOf(a.Actor) == pid(one) && a.Outcome == "open" && a.Step == "post_install"
		}
		return done[pid(one)] > machines && done[pid(two)] > machines && atWork
	})
	_ = one.Kill()
	s.done(two, machines, 2*time.Minute)
	testnet.Until(t, 30*time.Second, "every order's last event", func() bool { return panel.count("slipway.run.done") == machines })
	panel.inOrder(t)
	if n := panel.count("slipway.run.accepted"); n != machines {
		t.Errorf("%d orders were accepted, %d were sent", n, machines)
	}
	s.counted(machines)
	s.bootedOnce()
	if n := s.pools[0].sim.Calls()["VM.start_on"] + s.pools[1].sim.Calls()["VM.start_on"]; n != machines {
		t.Errorf("%d starts were asked for, want %d", n, machines)
	}
}
