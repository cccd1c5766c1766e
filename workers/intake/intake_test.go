package intake

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
	"slipway/workers/intake/message"
	"slipway/workers/queue"
	"slipway/workers/vault"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// bundle is an intake over a store that answers as told.
type bundle struct {
	*Intake
	log      strings.Builder
	vault    orchestrator.Vault
	taken    []orchestrator.Acceptance
	refused  []orchestrator.Event
	answer   error
	refusal  error
	accepted int
}

func (b *bundle) Accept(_ context.Context, a orchestrator.Acceptance) (orchestrator.Accepted, error) {
	if b.answer != nil {
		return orchestrator.Accepted{}, b.answer
	}
	b.taken = append(b.taken, a)
	return orchestrator.Accepted{Run: a.Run.ID, Machine: a.Machine.ID}, nil
}

func (b *bundle) Refuse(_ context.Context, key orchestrator.OrderKey, e orchestrator.Event) error {
	if b.refusal != nil {
		return b.refusal
	}
	if key != e.Order {
		return fmt.Errorf("key %v of an event about %v", key, e.Order)
	}
	b.refused = append(b.refused, e)
	return nil
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{}
	var err error
	if b.vault, err = vault.New(vault.NewKey()); err != nil {
		t.Fatal(err)
	}
	b.Intake = New(Config{
		Store: b, Vault: b.vault, Log: slog.New(slog.NewTextHandler(&b.log, nil)), Accepted: func() { b.accepted++ },
		Estate: &orchestrator.Estate{Images: []string{"debian-12", "ubuntu-24.04"}, Pools: []orchestrator.Pool{{ID: "pool-a", Images: []string{"debian-12"}}}},
		Installable: func(o orchestrator.Order) error {
			if o.Tenant == "keyless" {
				return orchestrator.FieldErrors{{Field: "ssh_keys", Problem: "is empty", Fix: "give one"}}
			}
			return nil
		},
		Processes: map[string]*orchestrator.Process{
			install.Name: install.New(install.Ports{}), uninstall.Name: uninstall.New(uninstall.Ports{}),
		},
	})
	return b
}

func order() orchestrator.Order {
	return orchestrator.Order{
		Source: "panel", ID: "4711", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web-1", Image: "debian-12",
		Plan: orchestrator.Plan{VCPUs: 2, MemoryMiB: 2048, DiskGiB: 20},
		Firewall: []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix("0.0.0.0/0"),
			Ports: []orchestrator.PortRange{{First: 443, Last: 443}}}},
	}
}

func body(t *testing.T, o orchestrator.Order) []byte {
	t.Helper()
	m, err := message.EncodeOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	return m.Body
}

func TestVerdicts(t *testing.T) {
	away := orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)
	unknownImage, unknownPool, noTemplate := order(), order(), order()
	unknownImage.Image = "windows-95"
	unknownPool.Pool = "pool-z"
	noTemplate.Image, noTemplate.Pool = "ubuntu-24.04", "pool-a"
	keyless := order()
	keyless.Tenant = "keyless"
	taken := orchestrator.FieldErrors{{Field: "name", Problem: "is taken", Fix: "use another"}}
	for _, tc := range []struct {
		name          string
		body          []byte
		answer        error
		refusal       error
		want          string // the verdict begins so
		refused, runs int
	}{
		{"good", body(t, order()), nil, nil, "ack", 0, 1},
		{"database away", body(t, order()), away, nil, "requeue after 5s", 0, 0},
		{"a broken store", body(t, order()), orchestrator.Errorf("store", orchestrator.Permanent, "no such table"), nil, "requeue after 5s", 0, 0},
		{"unclassified", body(t, order()), errors.New("?"), nil, "requeue after 5s", 0, 0},
		{"a name that is taken", body(t, order()), taken, nil, "dead: name: is taken", 1, 0},
		{"unknown image", body(t, unknownImage), nil, nil, "dead: image", 1, 0},
		{"unknown pool", body(t, unknownPool), nil, nil, "dead: pool", 1, 0},
		{"no template", body(t, noTemplate), nil, nil, "dead: image", 1, 0},
		{"the refusal cannot be recorded", body(t, unknownImage), nil, away, "requeue after 5s", 0, 0},
		{"not installable", body(t, keyless), nil, nil, "dead: ssh_keys: is empty", 1, 0},
		{"not JSON", []byte("hello"), nil, nil, "dead: ", 0, 0},
		{"nobody's", []byte(`{"specversion":"1.0","type":"slipway.order.install","data":{}}`), nil, nil, "dead: ", 0, 0},
		{"malformed, but signed", []byte(`{"specversion":"1.0","type":"slipway.order.install","source":"panel","id":"1","data":{"tenant":"acme"}}`), nil, nil, "dead: ", 1, 0},
		{"2 MiB", []byte(`{"specversion":"1.0","type":"slipway.order.install","source":"panel","id":"1","data":{"tenant":"` + strings.Repeat("a", 2<<20) + `"}}`), nil, nil, "dead: ", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := setup(t)
			b.answer, b.refusal = tc.answer, tc.refusal
			if got := b.Handle(t.Context(), queue.Delivery{Body: tc.body}).String(); !strings.HasPrefix(got, tc.want) {
				t.Errorf("verdict %q, want %q", got, tc.want)
			}
			if len(b.refused) != tc.refused || len(b.taken) != tc.runs || b.accepted != tc.runs {
				t.Errorf("%d refused, %d taken, %d announced", len(b.refused), len(b.taken), b.accepted)
			}
		})
	}
}

// An order that fails though the database is there is tried again after growing pauses, and then laid aside; an outage in between counts
// for nothing, and another order's failures neither.
func TestFailuresAreBounded(t *testing.T) {
	b := setup(t)
	b.Tries = 4
	away := orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)
	o := order()
	o.ID = "another"
	var got []string
	for _, answer := range []error{errors.New("?"), errors.New("?"), away, away, away, errors.New("?"), errors.New("last"), errors.New("?")} {
		b.answer = answer
		got = append(got, b.Handle(t.Context(), queue.Delivery{Body: body(t, order())}).String())
		if answer != away && len(got) < 4 {
			b.Handle(t.Context(), queue.Delivery{Body: body(t, o)})
		}
	}
	want := []string{
		"requeue after 5s", "requeue after 10s", "requeue after 5s", "requeue after 5s", "requeue after 5s", "requeue after 20s",
		"dead: not taken after 4 tries, the last one failed with: last", "requeue after 5s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A panic over one order is bounded in the same way.
func TestPanicOverAnOrder(t *testing.T) {
	b := setup(t)
	b.Tries = 2
	b.Installable = func(orchestrator.Order) error { panic("secret words") }
	for _, want := range []string{"requeue after 5s", "dead: not taken after 2 tries, the last one failed with: intake: intake panicked with a string"} {
		if got := b.Handle(t.Context(), queue.Delivery{Body: body(t, order())}).String(); got != want {
			t.Errorf("verdict %q", got)
		}
	}
	if strings.Contains(b.log.String(), "secret words") || !strings.Contains(b.log.String(), "intake_test.go") {
		t.Errorf("log %s", b.log.String())
	}
}

func TestStopRequeues(t *testing.T) {
	b := setup(t)
	b.answer = context.Canceled
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, again := b.Handle(ctx, queue.Delivery{Body: body(t, order())}).Delay(); !again {
		t.Error("an order was lost in a stop")
	}
}

// The panel hears which fields were wrong.
func TestRefusedEvent(t *testing.T) {
	b := setup(t)
	o := order()
	o.Image = "windows-95"
	b.Handle(t.Context(), queue.Delivery{Body: body(t, o)})
	if len(b.refused) != 1 {
		t.Fatalf("%d events", len(b.refused))
	}
	e := b.refused[0]
	var data orchestrator.EventData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if e.Type != orchestrator.EventRefused || e.Machine != "" || data.Source != "panel" || data.OrderID != "4711" ||
		len(data.Errors) != 1 || data.Errors[0].Field != "image" || !strings.Contains(data.Errors[0].Fix, "debian-12") {
		t.Errorf("event %+v %+v", e, data)
	}
}

// Each machine gets a host key and a console password of its own, sealed to it.
func TestSecretsAreSealed(t *testing.T) {
	b := setup(t)
	for n := range 2 {
		o := order()
		o.ID = fmt.Sprint(n)
		if _, err := b.Take(t.Context(), body(t, o), "0:root"); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, a := range b.taken {
		m := a.Machine
		key, err := b.vault.Open(m.ID, orchestrator.SealedHostKey, m.HostKeySecret)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.ParsePrivateKey([]byte(key.Reveal()))
		if err != nil {
			t.Fatal(err)
		}
		if public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); !strings.HasPrefix(m.HostKey, public) {
			t.Errorf("public %q, private of %q", m.HostKey, public)
		}
		password, err := b.vault.Open(m.ID, orchestrator.SealedConsole, m.ConsolePassword)
		if err != nil || len(password.Reveal()) != 8 {
			t.Errorf("a console password of %d characters: %v", len(password.Reveal()), err)
		}
		if _, err := b.vault.Open("another", orchestrator.SealedConsole, m.ConsolePassword); err == nil {
			t.Error("another machine can open it")
		}
		stored, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{key.Reveal(), password.Reveal(), base64.StdEncoding.EncodeToString([]byte(password.Reveal()))} {
			if seen[secret] {
				t.Error("two machines share a secret")
			}
			seen[secret] = true
			if strings.Contains(string(stored), secret) || strings.Contains(b.log.String(), secret) {
				t.Error("a secret is stored or logged as it is")
			}
		}
	}
}

func TestAcceptance(t *testing.T) {
	b := setup(t)
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	b.Now = func() time.Time { return now }
	if _, err := b.Take(t.Context(), body(t, order()), "0:root"); err != nil {
		t.Fatal(err)
	}
	a := b.taken[0]
	p := b.Processes[install.Name]
	if a.Actor != "0:root" || a.Now != now || a.Run.Machine != a.Machine.ID || a.Run.State != p.Start() || a.Run.RowHash != p.Hash(p.Rows[0]) ||
		a.Run.Status != orchestrator.StatusReady || a.Machine.Presence != orchestrator.Planned || a.Machine.Hostname != "web-1" {
		t.Errorf("%+v", a)
	}

	gone := orchestrator.Order{Source: "panel", ID: "9", Type: orchestrator.OrderUninstall, Tenant: "acme", Name: "web-1"}
	if _, err := b.Take(t.Context(), body(t, gone), "queue"); err != nil {
		t.Fatal(err)
	}
	if a := b.taken[1]; a.Run.Process != uninstall.Name || a.Machine.ID != "" || a.Run.ID == "" {
		t.Errorf("%+v", a)
	}
}
