package amqp_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/intake/message"
	"slipway/workers/queue"
)

const examples = "../../../docs/examples/"

// The example panel, in another language and with another client library, orders a machine and hears its events.
func TestTheExamplePanelOrdersAndListens(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has pika
	testenv.Need(t, python)
	for name, tt := range map[string]struct {
		events []string
		exit   int
	}{
		"done":   {[]string{orchestrator.EventAccepted, orchestrator.EventStepDone, orchestrator.EventDone}, 0},
		"parked": {[]string{orchestrator.EventAccepted, orchestrator.EventStepFailed, orchestrator.EventParked}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			url := testserver.RabbitMQ(t)
			q := opened(t, url)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := q.PublishEvents(ctx, []queue.Message{{ID: "0", Type: "test.topology"}}); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			serving, stop := context.WithCancel(ctx)
			go func() {
				ended <- q.Orders(serving, 1, func(ctx context.Context, d queue.Delivery) queue.Verdict {
					order, err := message.ParseOrder(d.Body)
					if err != nil {
						return queue.Dead(err.Error())
					}
					if err := q.PublishEvents(ctx, story(t, order, tt.events)); err != nil {
						t.Error(err)
					}
					return queue.Ack()
				})
			}()
			panel := exec.CommandContext(ctx, python, examples+"panel.py", "--timeout", "20", examples+"order.install.json")
			panel.Env = []string{"SLIPWAY_AMQP_URL=" + url, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
			out, _ := panel.CombinedOutput()
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if code := panel.ProcessState.ExitCode(); code != tt.exit {
				t.Errorf("exit status %d, want %d", code, tt.exit)
			}
			at := 0
			for _, typ := range append([]string{"ordered order-4711"}, tt.events...) {
				next := strings.Index(string(out)[at:], typ)
				if next < 0 {
					t.Fatalf("%s is not heard in its place:\n%s", typ, out)
				}
				at += next
			}
			if strings.Contains(string(out), "another") {
				t.Errorf("an event of another order was taken for its own:\n%s", out)
			}
		})
	}
}

// story is an order's events, each sent twice, between those of another order.
func story(t *testing.T, order orchestrator.Order, types []string) []queue.Message {
	t.Helper()
	const machine = "0b0e4f5c-6a5e-4b0f-9d6c-0f3f3f6f6a11"
	var messages []queue.Message
	add := func(e orchestrator.Event, times int) {
		m, err := message.EncodeEvent("slipway", e)
		if err != nil {
			t.Error(err)
		}
		for range times {
			messages = append(messages, m)
		}
	}
	other := orchestrator.NewEvent(orchestrator.EventDone, time.Now(), orchestrator.EventData{
		Machine: "another", Source: order.Source, OrderID: "another", Message: "another",
	})
	other.Seq = 1
	add(other, 1)
	for i, typ := range types {
		e := orchestrator.NewEvent(typ, time.Now(), orchestrator.EventData{
			Machine: machine, Name: order.Name, Source: order.Source, OrderID: order.ID, Step: "place",
		})
		e.Seq = int64(i + 1)
		add(e, 2)
	}
	return messages
}
