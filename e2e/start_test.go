package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// A queue of our name that somebody else has made ends the start before anything is made, on the broker or on the disk; a second serve on one
// socket ends as well.
func TestStartIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{pools: 1, rabbitmq: url})
	ch := channel(t, url)
	if _, err := ch.QueueDeclare("slipway.orders", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	refused := func(words ...string) {
		t.Helper()
		w := s.begin("worker")
		testnet.Until(t, 2*time.Minute, "serve to end", func() bool {
			select {
			case <-w.Done():
				return true
			default:
				return false
			}
		})
		if err := w.Wait(); err == nil {
			t.Error("it ended well")
		}
		for _, word := range words {
			if !strings.Contains(w.Output(), word) {
				t.Errorf("%q is not in: %s", word, w.Output())
			}
		}
	}
	refused("queue slipway.orders", "its x-queue-type is not set and must be 'quorum'", "slipway check")
	if _, err := os.Stat(filepath.Join(s.dir, "slipway.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the database was made: %v", err)
	}
	if err := ch.ExchangeDeclarePassive("slipway.events", "topic", true, false, false, false, nil); err == nil {
		t.Error("an exchange was made")
	}
	// The look has closed the channel.
	if _, err := channel(t, url).QueueDelete("slipway.orders", false, false, false); err != nil {
		t.Fatal(err)
	}
	s.serve("worker")
	refused("another serve answers on")
}
