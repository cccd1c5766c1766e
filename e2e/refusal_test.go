package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// with is an order with one field of its data changed; a path of two goes one deeper.
func with(o order, path string, value any) order {
	data := o["data"].(map[string]any)
	if first, second, deeper := strings.Cut(path, "."); deeper {
		data[first].(map[string]any)[second] = value
	} else {
		data[path] = value
	}
	return o
}

// Orders that cannot be carried out are laid aside with the reason, their panel hears why, and nothing is touched.
func TestRefusedOrdersTouchNothing(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{pools: 1, postgres: testserver.PostgreSQL(t), rabbitmq: url})
	w := s.serve("worker")
	panel := listen(t, url)
	_, key := keyPair(t)

	rule := func(ports ...any) []any {
		return []any{map[string]any{"protocol": "tcp", "source": "0.0.0.0/0", "ports": ports}}
	}
	cases := []struct {
		name, field string // field that the panel is told of; "" when the order did not say who it is from
		body        func(o order) []byte
	}{
		{"the end of a dhcpd block", "hostname", func(o order) []byte { return with(o, "hostname", `"; }`).json(t) }},
		{"a command", "hostname", func(o order) []byte { return with(o, "hostname", "$(reboot)").json(t) }},
		{"a line end", "name", func(o order) []byte { return with(o, "name", "web\n-j ACCEPT").json(t) }},
		{"a comment", "name", func(o order) []byte { return with(o, "name", "web#1").json(t) }},
		{"a label of 64 characters", "name", func(o order) []byte { return with(o, "name", strings.Repeat("a", 64)).json(t) }},
		{"a letter that looks like another", "name", func(o order) []byte { return with(o, "name", "wеb").json(t) }}, // Cyrillic
		{"no memory", "plan.memory_mib", func(o order) []byte { return with(o, "plan.memory_mib", 0).json(t) }},
		{"2^63 MiB", "plan.memory_mib", func(o order) []byte { return with(o, "plan.memory_mib", uint64(1)<<63).json(t) }},
		{"port 70000", "firewall[0].ports[0]", func(o order) []byte { return with(o, "firewall", rule(70000)).json(t) }},
		{"an unknown system", "image", func(o order) []byte { return with(o, "image", "plan9-4").json(t) }},
		{"an image that the pool lacks", "image", func(o order) []byte { return with(with(o, "image", "debian-13"), "pool", "pool-a").json(t) }},
		{"an unknown pool", "pool", func(o order) []byte { return with(o, "pool", "pool-z").json(t) }},
		{"a key that is none", "ssh_keys[0]", func(o order) []byte { return with(o, "ssh_keys", []any{"ssh-ed25519 AAAA me"}).json(t) }},
		{"a key of JSON twice", "data.name", func(o order) []byte {
			return bytes.Replace(o.json(t), []byte(`"name":`), []byte(`"name":"other","name":`), 1)
		}},
		{"2 MiB", "", func(o order) []byte { return with(o, "hostname", strings.Repeat("a", 2<<20)).json(t) }},
		{"no JSON", "", func(order) []byte { return []byte("hello") }},
	}
	var bodies [][]byte
	for i, c := range cases {
		bodies = append(bodies, c.body(install(i+1, key)))
	}
	publish(t, url, bodies...)

	letters := deadLetters(t, url, len(cases))
	for i, c := range cases {
		id := fmt.Sprintf("order-%04d", i+1)
		letter, ok := letters[string(bodies[i])]
		reason, _ := letter["x-slipway-reason"].(string)
		if !ok || reason == "" {
			t.Errorf("%s: it is not in slipway.dead with a reason: %v", c.name, letter)
		}
		if c.field == "" {
			continue
		}
		refused := panel.await(t, "slipway.order.refused", id)
		var fields []string
		for _, e := range refused.Data.Errors {
			fields = append(fields, e.Field)
			if e.Problem == "" || e.Fix == "" {
				t.Errorf("%s: %+v lacks problem or fix", c.name, e)
			}
		}
		if len(fields) == 0 || strings.TrimPrefix(fields[0], "data.") != strings.TrimPrefix(c.field, "data.") {
			t.Errorf("%s: the panel is told of %v, want %s", c.name, fields, c.field)
		}
		if !strings.Contains(reason, refused.Data.Errors[0].Problem) {
			t.Errorf("%s: the reason %q is not what the panel hears: %+v", c.name, reason, refused.Data.Errors)
		}
	}
	if runs := s.mustRuns(w); len(runs) != 0 {
		t.Errorf("runs: %+v", runs)
	}
	s.counted(0)
	var groups []api.Group
	if err := w.api.Get(t.Context(), "/v1/groups", &groups); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g.Generation != 0 || g.Entries != 0 {
			t.Errorf("group %s is at generation %d with %d entries", g.ID, g.Generation, g.Entries)
		}
	}
	if restarts := s.dhcp.restarts(); restarts != 0 {
		t.Errorf("dhcpd was started %d times", restarts)
	}
	for method, n := range s.pools[0].sim.Calls() {
		if strings.HasPrefix(method, "VM.") && !strings.HasPrefix(method, "VM.get_") {
			t.Errorf("%d calls of %s", n, method)
		}
	}
}

// deadLetters takes n letters out of slipway.dead: their headers by their bodies.
func deadLetters(t *testing.T, url string, n int) map[string]amqp091.Table {
	t.Helper()
	ch := channel(t, url)
	letters := map[string]amqp091.Table{}
	testnet.Until(t, 30*time.Second, fmt.Sprintf("%d dead letters", n), func() bool {
		d, ok, err := ch.Get("slipway.dead", true)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			letters[string(d.Body)] = d.Headers
		}
		return len(letters) == n
	})
	if d, ok, err := ch.Get("slipway.dead", true); err != nil || ok {
		t.Errorf("one letter more: %s, %v", d.Body, err)
	}
	return letters
}

// An order is known by its source and id: the same again is answered as before, another under the same id is refused.
func TestSameOrderAgainAndAnotherUnderItsID(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{pools: 1, postgres: testserver.PostgreSQL(t), rabbitmq: url})
	w := s.serve("worker")
	panel := listen(t, url)
	_, key := keyPair(t)
	const id = "order-0001"
	publish(t, url, install(1, key).json(t))
	accepted := panel.await(t, "slipway.run.accepted", id)

	// While the first telling is not recorded yet, it answers for both deliveries: so the order comes again until it was told twice.
	var last time.Time
	testnet.Until(t, 60*time.Second, "the accepted event to be sent again", func() bool {
		if time.Since(last) > 2*time.Second {
			publish(t, url, install(1, key).json(t))
			last = time.Now()
		}
		n := 0
		for _, e := range panel.heard() {
			if e.Type == "slipway.run.accepted" && e.Data.Order == id {
				n++
				if e.ID != accepted.ID || e.Seq != accepted.Seq || e.Data.Machine != accepted.Data.Machine {
					t.Fatalf("%+v, want %+v again", e, accepted)
				}
			}
		}
		return n >= 2
	})

	publish(t, url, with(with(install(1, key), "plan.vcpus", 2), "hostname", "other.example").json(t))
	conflict := panel.await(t, "slipway.order.conflict", id)
	if got := strings.Join(conflict.Data.Fields, " "); !strings.Contains(got, "plan") || !strings.Contains(got, "hostname") || strings.Contains(got, "image") {
		t.Errorf("the fields that differ: %s, want hostname and the plan's vcpus", got)
	}
	s.done(w, 1, time.Minute)
	s.counted(1)
}
