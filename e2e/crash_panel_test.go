package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"
)

// desk is the panel of the crash test: it orders through broken connections, hears everything, and orders machines away once they are
// finished. An order that was not confirmed is sent again.
type desk struct {
	*listener
	orders chan []byte
}

// orderAway makes the order for a machine to leave.
type orderAway func(install, machine string) []byte

// openDesk works until the test ends. leaving are the orders of installs whose machines leave when they are finished.
func openDesk(t *testing.T, url string, capacity int, leaving map[string]bool, away orderAway) *desk {
	t.Helper()
	d := &desk{listener: listen(t, url), orders: make(chan []byte, capacity)}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { d.send(ctx) })
	working.Go(func() { d.follow(ctx, leaving, away) })
	t.Cleanup(func() { cancel(); working.Wait() })
	return d
}

// awayAtOnce is how many machines may be on their way out at one time, so that departures are met by kills from the beginning to the end.
const awayAtOnce = 5

// follow orders machines away as it hears that they are finished.
func (d *desk) follow(ctx context.Context, leaving map[string]bool, away orderAway) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	type departure struct {
		machine string
		order   []byte
	}
	var next []departure
	going := map[string]bool{} // machines
	for read := 0; ; {
		heard := d.heard()
		for _, e := range heard[read:] {
			switch {
			case e.Type != "slipway.run.done":
			case leaving[e.Data.Order]:
				delete(leaving, e.Data.Order)
				next = append(next, departure{e.Subject, away(e.Data.Order, e.Subject)})
			default:
				delete(going, e.Subject)
			}
		}
		read = len(heard)
		for len(next) > 0 && len(going) < awayAtOnce {
			going[next[0].machine] = true
			d.orders <- next[0].order
			next = next[1:]
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// send publishes what is ordered, one after another, until ctx ends.
func (d *desk) send(ctx context.Context) {
	var body []byte
	for ctx.Err() == nil {
		if err := d.connected(ctx, func(ch *amqp091.Channel, returned <-chan amqp091.Return) error {
			for {
				if body == nil {
					select {
					case <-ctx.Done():
						return nil
					case body = <-d.orders:
					}
				}
				if err := publishOne(ctx, ch, returned, body); err != nil {
					return err
				}
				body = nil
			}
		}); err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // the broker is away
		}
	}
}

func (d *desk) connected(ctx context.Context, do func(*amqp091.Channel, <-chan amqp091.Return) error) error {
	ch, hangUp, err := dial(d.url)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, hangUp)
	defer stop()
	defer hangUp()
	return do(ch, ch.NotifyReturn(make(chan amqp091.Return, 1)))
}
