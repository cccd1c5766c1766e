package e2e

import (
	"testing"

	"github.com/rabbitmq/amqp091-go"
)

// dial opens a channel to a broker, with confirmations; hang up closes its connection.
func dial(url string) (ch *amqp091.Channel, hangUp func(), err error) {
	conn, err := amqp091.Dial(url)
	if err != nil {
		return nil, nil, err
	}
	hangUp = func() { _ = conn.Close() } // it may be lost by then
	if ch, err = conn.Channel(); err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		hangUp()
		return nil, nil, err
	}
	return ch, hangUp, nil
}

// channel is one for the length of the test.
func channel(t *testing.T, url string) *amqp091.Channel {
	t.Helper()
	ch, hangUp, err := dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hangUp)
	return ch
}

// sendOrder publishes an order as a panel does: it comes back when nobody has a queue for it.
func sendOrder(ch *amqp091.Channel, body []byte) (*amqp091.DeferredConfirmation, error) {
	return ch.PublishWithDeferredConfirm("slipway.orders", "slipway.order", true, false, amqp091.Publishing{
		Body: body, ContentType: "application/cloudevents+json", DeliveryMode: amqp091.Persistent,
	})
}
