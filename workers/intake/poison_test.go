package intake_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
	"slipway/workers/intake"
	"slipway/workers/intake/message"
	"slipway/workers/queue"
	"slipway/workers/queue/amqp"
	"slipway/workers/vault"
)

// pickyStore cannot take one order, and takes the others.
type pickyStore struct {
	mu     sync.Mutex
	mended bool
	tries  map[string]int
	taken  map[string]bool
}

func (p *pickyStore) Accept(_ context.Context, a orchestrator.Acceptance) (orchestrator.Accepted, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries[a.Order.ID]++
	if a.Order.ID == "poison" && !p.mended {
		return orchestrator.Accepted{}, errors.New("a rule that nobody\nhas classified")
	}
	p.taken[a.Order.ID] = true
	return orchestrator.Accepted{Run: a.Run.ID}, nil
}

func (p *pickyStore) Refuse(context.Context, orchestrator.OrderKey, orchestrator.Event) error {
	return nil
}

func (p *pickyStore) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken[id]
}

// An order that the store cannot take is tried so often, then lies in RabbitMQ's dead letters, whole and with the reason; the others are not
// held up, and it is taken when the cause is mended and an operator sends it again.
func TestAnOrderThatCannotBeTakenIsLaidAside(t *testing.T) {
	q, err := amqp.New(amqp.Config{URL: orchestrator.NewSecret(testserver.RabbitMQ(t)), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), BackoffMin: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	v, err := vault.New(vault.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	store := &pickyStore{tries: map[string]int{}, taken: map[string]bool{}}
	i := intake.New(intake.Config{
		Store: store, Vault: v, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Tries: 4, Pause: time.Millisecond,
		Estate:    &orchestrator.Estate{Images: []string{"debian-12"}, Pools: []orchestrator.Pool{{ID: "pool-a", Images: []string{"debian-12"}}}},
		Processes: map[string]*orchestrator.Process{install.Name: install.New(install.Ports{}), uninstall.Name: uninstall.New(uninstall.Ports{})},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Orders(ctx, 1, i.Handle) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	var poison queue.Message
	for _, id := range []string{"poison", "good"} {
		m, err := message.EncodeOrder(orchestrator.Order{
			Source: "panel", ID: id, Type: orchestrator.OrderInstall, Tenant: "acme", Name: id, Image: "debian-12",
			Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10},
		})
		if err != nil {
			t.Fatal(err)
		}
		if id == "poison" {
			poison = m
		}
		if err := q.PublishOrder(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var letters []queue.DeadLetter
	until(t, "the dead letter, and the good order taken", func() bool {
		letters, err = q.Dead(t.Context(), 10)
		return err == nil && len(letters) == 1 && store.has("good")
	})
	store.mu.Lock()
	tries := store.tries["poison"]
	store.mended = true
	store.mu.Unlock()
	if l := letters[0]; tries != 4 || sha256.Sum256(l.Body) != sha256.Sum256(poison.Body) ||
		!strings.HasPrefix(l.Reason, "not taken after 4 tries") || !strings.Contains(l.Reason, "has classified") {
		t.Errorf("after %d tries: %+v", tries, l)
	}
	if err := q.RequeueDead(t.Context(), letters[0].ID); err != nil {
		t.Fatal(err)
	}
	until(t, "it is taken", func() bool { return store.has("poison") })
	if letters, err := q.Dead(t.Context(), 10); err != nil || len(letters) != 0 {
		t.Errorf("left: %v, %v", letters, err)
	}
}

func until(t *testing.T, what string, fact func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}
