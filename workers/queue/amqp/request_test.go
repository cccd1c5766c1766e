package amqp_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/queue/amqp"
)

const agentQueue = "slipway.agent.dhcp2"

func quick(tb testing.TB, url string) amqp.Config {
	return amqp.Config{
		URL: orchestrator.NewSecret(url), Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
		BackoffMin: 20 * time.Millisecond, BackoffMax: 300 * time.Millisecond, PublishTimeout: 10 * time.Second, Keepalive: 100 * time.Millisecond,
	}
}

func requester(t *testing.T, url string) *amqp.Requester {
	t.Helper()
	r, err := amqp.NewRequester(quick(t, url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // its broker may be gone
	return r
}

// responding is a Responder that runs.
type responding struct {
	*amqp.Responder
	stop  context.CancelFunc
	ended chan error
	once  sync.Once
}

func respond(t *testing.T, config amqp.Config, answer amqp.Answerer) *responding {
	t.Helper()
	r, err := amqp.NewResponder(config, agentQueue)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	x := &responding{Responder: r, stop: stop, ended: make(chan error, 1)}
	go func() { x.ended <- r.Run(ctx, 10*time.Second, answer) }()
	t.Cleanup(x.end)
	return x
}

// end stops it in order.
func (r *responding) end() {
	r.once.Do(func() {
		r.stop()
		<-r.ended
		_ = r.Close()
	})
}

// listens waits until somebody answers.
func listens(t *testing.T, r *amqp.Requester) {
	t.Helper()
	poll(t, "somebody answers", func() bool { _, err := ask(t, r, "ready?"); return err == nil })
}

func ask(t *testing.T, r *amqp.Requester, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answer, err := r.Ask(ctx, agentQueue, amqp.Request{ID: uuid.NewString(), Headers: map[string]string{"a": "b"}, Body: []byte(text)})
	return string(answer), err
}

func echo(_ context.Context, m amqp.Request) []byte {
	return append([]byte(m.Headers["a"]+" "), m.Body...)
}

func TestAsk(t *testing.T) {
	url := testserver.RabbitMQ(t)
	r := requester(t, url)
	begin := time.Now()
	if _, err := ask(t, r, "x"); orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(err.Error(), "nobody listens at "+agentQueue) || time.Since(begin) > 10*time.Second {
		t.Errorf("nobody there: %v after %s", err, time.Since(begin))
	}
	respond(t, quick(t, url), echo)
	listens(t, r)
	var asking sync.WaitGroup
	for _, text := range strings.Fields("one two three four five six seven eight nine ten") {
		asking.Go(func() {
			if answer, err := ask(t, r, text); err != nil || answer != "b "+text {
				t.Errorf("%q is answered %q, %v", text, answer, err)
			}
		})
	}
	asking.Wait()
	if answer, err := ask(t, r, strings.Repeat("x", 3<<20)); err != nil || len(answer) != 3<<20+2 {
		t.Errorf("a long request: %d bytes, %v", len(answer), err)
	}
	if _, err := ask(t, r, strings.Repeat("x", amqp.MaxBody+1)); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("a request that is too long: %v", err)
	}
}

// hanging answers when it is let go; began tells that a request is in hand.
type hanging struct {
	began, letGo chan struct{}
	times        atomic.Int32
	dead         bool // it answers nothing when it is ended, as one that was killed
}

func newHanging() *hanging {
	return &hanging{began: make(chan struct{}, 100), letGo: make(chan struct{})}
}

func (h *hanging) answer(ctx context.Context, m amqp.Request) []byte {
	if string(m.Body) != "hang" {
		return echo(ctx, m)
	}
	h.times.Add(1)
	h.began <- struct{}{}
	if h.dead {
		ctx = context.Background()
	}
	select {
	case <-h.letGo:
	case <-ctx.Done():
	}
	return []byte("late")
}

// asking asks in the background.
func asking(t *testing.T, r *amqp.Requester, text string) <-chan error {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		answer, err := ask(t, r, text)
		if err == nil && answer != "late" {
			err = errors.New("answer " + answer)
		}
		failed <- err
	}()
	return failed
}

func TestWhoeverHasTheRequestIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(t *testing.T, url string, r *responding)
		says string
	}{
		"dies": {func(_ *testing.T, _ string, r *responding) { _ = r.Close() }, "has left the broker"},
		"is restarted": {func(t *testing.T, url string, r *responding) {
			_ = r.Close()
			respond(t, quick(t, url), echo)
		}, "was restarted, or"},
	} {
		t.Run(name, func(t *testing.T) {
			url := testserver.RabbitMQ(t)
			r, h := requester(t, url), newHanging()
			h.dead = true
			config := quick(t, url)
			if name == "is restarted" { // time for the new one to come
				slow := quick(t, url)
				slow.Keepalive = 2 * time.Second
				var err error
				if r, err = amqp.NewRequester(slow); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = r.Close() })
			}
			x := respond(t, config, h.answer)
			t.Cleanup(func() { close(h.letGo) })
			listens(t, r)
			failed := asking(t, r, "hang")
			<-h.began
			tt.harm(t, url, x)
			if err := <-failed; orchestrator.KindOf(err) != orchestrator.Unknown || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want an unknown outcome saying %q", err, tt.says)
			}
		})
	}
}

// What is in hand is answered before the Responder ends, and nothing new is taken.
func TestStopAnswersWhatIsInHand(t *testing.T) {
	url := testserver.RabbitMQ(t)
	r, h := requester(t, url), newHanging()
	x := respond(t, quick(t, url), h.answer)
	listens(t, r)
	failed := asking(t, r, "hang")
	<-h.began
	x.stop()
	poll(t, "new requests are not taken", func() bool {
		_, err := ask(t, r, "new")
		return err != nil && strings.Contains(err.Error(), "or stops")
	})
	close(h.letGo)
	if err := <-failed; err != nil {
		t.Errorf("the request in hand: %v", err)
	}
	x.end()
}

// A second one of the same name is kept out for as long as the first is there.
func TestTwoOfOneName(t *testing.T) {
	url := testserver.RabbitMQ(t)
	r := requester(t, url)
	first := respond(t, quick(t, url), echo)
	listens(t, r)
	said := &lines{}
	config := quick(t, url)
	config.Log = slog.New(slog.NewTextHandler(said, nil))
	respond(t, config, func(context.Context, amqp.Request) []byte { return []byte("second") })
	poll(t, "the second to say why it waits", func() bool { return strings.Contains(said.String(), "a second agent has this name") })
	for range 20 {
		if answer, err := ask(t, r, "who"); err != nil || answer != "b who" {
			t.Fatalf("%q, %v", answer, err)
		}
	}
	first.end()
	poll(t, "the second to take over", func() bool { answer, err := ask(t, r, "who"); return err == nil && answer == "second" })
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// While a request is in hand a repetition of it is no second one; afterwards it is carried out again, and whoever does must see to that.
func TestRepetition(t *testing.T) {
	url := testserver.RabbitMQ(t)
	r, h := requester(t, url), newHanging()
	respond(t, quick(t, url), h.answer)
	listens(t, r)
	ch := plain(t, url)
	publish := func() {
		if err := ch.PublishWithContext(t.Context(), "", agentQueue, true, false, amqp091.Publishing{
			Type: "slipway.request", CorrelationId: "the same", ReplyTo: "nobody", Body: []byte("hang"),
		}); err != nil {
			t.Error(err)
		}
	}
	publish()
	<-h.began
	publish()
	if err := ch.Confirm(false); err != nil { // answered behind the publish: it is in the queue now
		t.Fatal(err)
	}
	if _, err := ask(t, r, "behind it"); err != nil { // in the order of the queue
		t.Error(err)
	}
	if n := h.times.Load(); n != 1 {
		t.Errorf("carried out %d times at once", n)
	}
	close(h.letGo)
	poll(t, "a repetition afterwards", func() bool { publish(); return h.times.Load() > 1 })
}

// A request that nobody takes while somebody waits for it is thrown away by the broker.
func TestStaleRequestIsThrownAway(t *testing.T) {
	url := testserver.RabbitMQ(t)
	ch := plain(t, url)
	if _, err := ch.QueueDeclare(agentQueue, false, false, true, false, nil); err != nil { // and nobody consumes
		t.Fatal(err)
	}
	r := requester(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := r.Ask(ctx, agentQueue, amqp.Request{ID: "1", Body: []byte("stale")}); orchestrator.KindOf(err) != orchestrator.Unknown {
		t.Errorf("asked where nobody consumes: %v", err)
	}
	poll(t, "the queue is empty", func() bool {
		state, err := ch.QueueDeclarePassive(agentQueue, false, false, true, false, nil)
		return err == nil && state.Messages == 0
	})
	if d, found, err := ch.Get(agentQueue, true); err != nil || found {
		t.Errorf("got %s %s, %v", d.Type, d.Body, err)
	}
}

func TestBrokerIsRestartedWhileSomebodyWaits(t *testing.T) {
	broker := testserver.NewRabbitMQ(t)
	url := broker.URL(t)
	r, h := requester(t, url), newHanging()
	respond(t, quick(t, url), h.answer)
	listens(t, r)
	failed := asking(t, r, "hang")
	<-h.began
	broker.Kill9(t)
	if err := <-failed; orchestrator.KindOf(err) != orchestrator.Unknown {
		t.Errorf("the broker died: %v", err)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := r.Ask(ctx, agentQueue, amqp.Request{ID: "away"}); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("the broker is away: %v after %s", err, time.Since(begin))
	}
	broker.Start(t)
	close(h.letGo) // its answer finds nobody
	listens(t, r)
}

// The accounts in deploy/ may do what they must and nothing more.
func TestAccountsAreLeastPrivileged(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/rabbitmq-definitions.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Permissions []struct{ User, Configure, Write, Read string }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	broker := testserver.SharedRabbitMQ(t)
	url := broker.URL(t)
	accounts := map[string]string{}
	for _, p := range d.Permissions {
		accounts[p.User] = broker.Account(t, url, p.User, p.Configure, p.Write, p.Read)
	}
	q := opened(t, accounts["slipway"])
	if err := q.PublishOrder(t.Context(), order("1")); err != nil {
		t.Fatal(err)
	}
	r := requester(t, accounts["slipway"])
	if _, err := ask(t, r, "x"); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Fatal(err)
	}
	for _, user := range []string{"agent-dhcp2", "panel"} {
		for what, try := range map[string]func(ch *amqp091.Channel) error{
			"take orders":   func(ch *amqp091.Channel) error { _, _, err := ch.Get(amqp.QueueOrders, false); return err },
			"read the dead": func(ch *amqp091.Channel) error { _, _, err := ch.Get(amqp.QueueDead, false); return err },
			"ask an agent":  publishing("", "slipway.agent.fw1"),
			"speak for us":  publishing(amqp.ExchangeEvents, "slipway.run.done"),
			"listen as fw1": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare("slipway.agent.fw1", false, false, true, false, nil)
				return err
			},
			"wiretap answers": wiretap(map[string]string{"agent-dhcp2": agentQueue, "panel": "panel.x"}[user]),
			"let the broker ask an agent": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(map[string]string{"agent-dhcp2": agentQueue, "panel": "panel.y"}[user], false, false, true, false,
					amqp091.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "slipway.agent.fw1", "x-message-ttl": int64(0)})
				return err
			},
		} {
			if err := refused(t, accounts[user], try); err == nil || err.Code != amqp091.AccessRefused {
				t.Errorf("%s may %s: %v", user, what, err)
			}
		}
	}
	if err := refused(t, accounts["agent-dhcp2"], publishing(amqp.ExchangeOrders, "slipway.order.install")); err == nil || err.Code != amqp091.AccessRefused {
		t.Errorf("an agent may order: %v", err)
	}
	respond(t, quick(t, accounts["agent-dhcp2"]), echo)
	listens(t, r)
}

func publishing(exchange, key string) func(*amqp091.Channel) error {
	return func(ch *amqp091.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		c, err := ch.PublishWithDeferredConfirm(exchange, key, false, false, amqp091.Publishing{Body: []byte("x")})
		if err != nil {
			return err
		}
		c.Wait()
		return nil
	}
}

func wiretap(queue string) func(*amqp091.Channel) error {
	return func(ch *amqp091.Channel) error {
		if _, err := ch.QueueDeclare(queue, false, false, true, false, nil); err != nil {
			return err
		}
		return ch.QueueBind(queue, "#", amqp.ExchangeAnswers, false, nil)
	}
}

// refused is how the broker ended the channel on which something was tried, nil when it did not.
func refused(t *testing.T, url string, try func(*amqp091.Channel) error) *amqp091.Error {
	t.Helper()
	conn, err := amqp091.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // with the queue that somebody else wants
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	var asError *amqp091.Error
	if err := try(ch); errors.As(err, &asError) {
		return asError
	}
	if _, err := ch.QueueDeclarePassive("slipway.none", false, false, false, false, nil); err == nil {
		t.Error("a queue that is not there")
	}
	return <-closed
}

// A request or an answer that is longer than may be is here whole before anybody can see that, and goes no further.
func TestTooLong(t *testing.T) {
	url := testserver.RabbitMQ(t)
	r := requester(t, url)
	var longest atomic.Int64
	respond(t, quick(t, url), func(_ context.Context, m amqp.Request) []byte {
		longest.Store(max(longest.Load(), int64(len(m.Body))))
		if string(m.Body) == "long answer, please" {
			return make([]byte, amqp.MaxBody+1)
		}
		return m.Body
	})
	listens(t, r)
	ch := plain(t, url)
	if err := ch.Publish("", agentQueue, true, false, amqp091.Publishing{Type: "slipway.request", CorrelationId: "x", Body: make([]byte, amqp.MaxBody+1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, r, "long answer, please"); orchestrator.KindOf(err) != orchestrator.Unknown || !strings.Contains(err.Error(), "answered with") {
		t.Errorf("a long answer: %v", err)
	}
	if answer, err := ask(t, r, "next"); err != nil || answer != "next" {
		t.Errorf("afterwards: %q, %v", answer, err)
	}
	if n := longest.Load(); n > amqp.MaxBody {
		t.Errorf("a request of %d bytes was carried out", n)
	}
}
