package e2e

import (
	"errors"
	"slices"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// The database is killed and comes back, then the broker, both in the middle of installs, and at last the broker is short of memory. Orders that
// come meanwhile wait, installs go on without the broker, and its panel hears everything afterwards.
func TestDatabaseAndBrokerGoAway(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	const first, second, third = 10, 5, 3
	postgres, rabbitmq := testserver.NewPostgreSQL(t), testserver.NewRabbitMQ(t)
	url := rabbitmq.URL(t)
	s := newSite(t, siteConfig{pools: 2, lease: 3 * time.Second, postgres: postgres.DSN(t), rabbitmq: url})
	w := s.serve("worker")
	panel := listen(t, url)
	all := orders(t, first+second+third)
	at := func(steps ...string) bool {
		return slices.ContainsFunc(s.mustRuns(w), func(r api.Run) bool { return slices.Contains(steps, r.Step) })
	}

	publish(t, url, all[:first]...)
	testnet.Until(t, 60*time.Second, "installs to be at work", func() bool { return at("post_install") })
	postgres.Kill9(t)
	testnet.Until(t, 30*time.Second, "serve to say that the database is away", func() bool {
		_, err := w.runs(t.Context())
		var refused *api.Error
		return errors.As(err, &refused) && refused.Code == api.CodeAway
	})
	publish(t, url, all[first:first+second]...)
	testnet.Until(t, 30*time.Second, "an order to have been held and put back", func() bool { return w.said("order kept for later") })
	postgres.Start(t)
	testnet.Until(t, 60*time.Second, "the orders that waited to be taken", func() bool { return len(s.mustRuns(w)) == first+second })

	testnet.Until(t, 60*time.Second, "installs to be at work again", func() bool { return at("post_install", "configure_nat", "sync_dhcp") })
	rabbitmq.Kill9(t)
	heard := panel.count("slipway.run.done")
	s.done(w, first+second, 2*time.Minute) // without the broker
	if now := panel.count("slipway.run.done"); now != heard {
		t.Fatalf("the broker is down and %d events were heard", now-heard)
	}
	rabbitmq.Start(t)
	testnet.Until(t, 60*time.Second, "every order's last event", func() bool { return panel.count("slipway.run.done") == first+second })

	publish(t, url, all[first+second:]...)
	testnet.Until(t, 60*time.Second, "the last orders to be taken", func() bool { return len(s.mustRuns(w)) == first+second+third })
	rabbitmq.Memory(t, 1)
	testnet.Until(t, 60*time.Second, "serve to say that the broker is short of memory", func() bool { return w.said("the broker takes no messages") })
	s.done(w, first+second+third, 2*time.Minute)
	if heard := panel.count("slipway.run.done"); heard == first+second+third {
		t.Error("all events were heard from a broker that is short of memory")
	}
	rabbitmq.Memory(t, testserver.EnoughMemory)
	testnet.Until(t, 60*time.Second, "the events that waited", func() bool { return panel.count("slipway.run.done") == first+second+third })
	panel.inOrder(t)
	s.counted(first + second + third)
	s.bootedOnce()

	if d, ok, err := channel(t, url).Get("slipway.dead", false); err != nil || ok {
		t.Errorf("a dead letter: %v %s, %v", d.Headers, d.Body, err)
	}
}
