package demo

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	client "slipway/workers/hypervisor/xapi"
)

func options(out *bytes.Buffer) Options {
	return Options{Orders: 3, Pools: 1, Seed: 1, Timeout: 2 * time.Minute, Stdout: out, Log: slog.New(slog.DiscardHandler)}
}

func lastLine(out *bytes.Buffer) string {
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	return lines[len(lines)-1]
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	result, err := Run(t.Context(), options(&out))
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK() || lastLine(&out) != "demo: 3 ordered, 3 production_ready, 0 leaked, 0 duplicated" {
		t.Errorf("%+v\n%s", result, out.String())
	}
	for _, want := range []string{"is parked at start_machine", "$ slipway retry", "found:", "production_ready"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing about %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b[") {
		t.Error("a board on what is no terminal")
	}
}

// The last line is counted by looking: whatever is planted in the world shows in it.
func TestPlantsAreCounted(t *testing.T) {
	appendTo := func(path func(*world) string, text func(*world) string) func(context.Context, *world) error {
		return func(_ context.Context, w *world) error {
			f, err := os.OpenFile(path(w), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			if _, err := f.WriteString(text(w)); err != nil {
				return err
			}
			return f.Close()
		}
	}
	hosts := func(w *world) string { return w.hostsFile(w.pools[0]) }
	rules := func(w *world) string { return w.rulesFile(w.pools[0]) }
	// of is the id of the machine that the DHCP file gives 10.77.0.10.
	of := func(w *world) string {
		text, err := os.ReadFile(hosts(w))
		if err != nil {
			return err.Error()
		}
		words := strings.Fields(string(text[:bytes.Index(text, []byte("10.77.0.10;"))]))
		return words[len(words)-6]
	}
	plants := []struct {
		plant func(context.Context, *world) error
		found string
	}{
		{strayVM, "(stray) belongs to no machine"},
		{secondInterface, "second interface 02:16:3e:00:ff:ff"},
		{appendTo(hosts, func(w *world) string {
			return "host " + of(w) + "-b { hardware ethernet 02:16:3e:00:00:99; fixed-address 10.77.0.98; }\n"
		}), "10.77.0.98) belongs to no machine"},
		{appendTo(rules, func(w *world) string {
			return "*nat\n-A SLIPWAY-DNAT -d 198.18.0.99/32 -m comment --comment " + of(w) + " -j DNAT --to-destination 10.77.0.10\nCOMMIT\n"
		}), "an address that is not its own: -A SLIPWAY-DNAT -d 198.18.0.99/32"},
		{appendTo(hosts, func(*world) string {
			return "host stray { hardware ethernet 02:16:3e:00:00:99; fixed-address 10.77.0.99; }\n"
		}), "host block stray"},
		{appendTo(rules, func(*world) string { return "*filter\n-A SLIPWAY-TO -d 10.77.0.99/32 -j ACCEPT\nCOMMIT\n" }),
			"a rule belongs to no machine: -A SLIPWAY-TO -d 10.77.0.99/32"},
		{appendTo((*world).consoleFile, func(*world) string { return "  VM 20999 0f7cf26c-0000-4000-8000-000000000009 36144edf28c994c8\n" }),
			"console: port 20999"},
	}
	var out bytes.Buffer
	o := options(&out)
	o.Orders = 2
	o.tamper = func(ctx context.Context, w *world) error {
		for _, p := range plants {
			if err := p.plant(ctx, w); err != nil {
				return err
			}
		}
		return nil
	}
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.OK() || lastLine(&out) != "demo: 2 ordered, 2 production_ready, 6 leaked, 1 duplicated" {
		t.Errorf("%s\n%v", lastLine(&out), result.Report)
	}
	for _, p := range plants {
		if n := strings.Count(out.String(), p.found); n != 1 {
			t.Errorf("%q is found %d times", p.found, n)
		}
	}
}

// strayVM makes a VM of a template, over the wire, as somebody else's script would.
func strayVM(ctx context.Context, w *world) error {
	c, err := w.pools[0].client()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	var templates []client.Ref
	if err := c.Call(ctx, "VM.get_by_name_label", &templates, images[0]); err != nil {
		return err
	}
	var vm client.Ref
	if err := c.Call(ctx, "VM.clone", &vm, templates[0], "stray"); err != nil {
		return err
	}
	return c.Call(ctx, "VM.provision", nil, vm)
}

// secondInterface gives a machine of ours another VIF, over the wire.
func secondInterface(ctx context.Context, w *world) error {
	c, err := w.pools[0].client()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	var vms map[client.Ref]struct {
		OtherConfig map[string]string `json:"other_config"`
	}
	if err := c.Call(ctx, "VM.get_all_records", &vms); err != nil {
		return err
	}
	var network client.Ref
	if err := c.Call(ctx, "network.get_by_uuid", &network, w.pools[0].network); err != nil {
		return err
	}
	for ref, vm := range vms {
		if vm.OtherConfig["slipway_machine"] == "" {
			continue
		}
		record := map[string]any{
			"device": "1", "network": network, "VM": ref, "MAC": "02:16:3e:00:ff:ff", "MTU": "1500",
			"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		}
		var vif client.Ref
		return c.Call(ctx, "VIF.create", &vif, record)
	}
	return fmt.Errorf("no VM of ours is there")
}

// A guest is reached as its rules say, not because it is there.
func TestAdmits(t *testing.T) {
	rules := `-A SLIPWAY-TO -d 10.0.0.1/32 -m comment --comment a -j SLIPWAY-M-1
-A SLIPWAY-TO -d 10.0.0.2/32 -m comment --comment b -j SLIPWAY-M-2
-A SLIPWAY-M-1 -s 203.0.113.7/32 -p tcp -m tcp --dport 22 -j ACCEPT
-A SLIPWAY-M-1 -p tcp -m tcp --dport 8000:8080 -j ACCEPT
-A SLIPWAY-M-2 -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT
`
	for _, tc := range []struct {
		private string
		port    uint16
		want    bool
	}{{"10.0.0.1", 22, true}, {"10.0.0.1", 23, false}, {"10.0.0.1", 8040, true}, {"10.0.0.2", 22, false}, {"10.0.0.3", 22, false}} {
		if got := admits(rules, tc.private, tc.port); got != tc.want {
			t.Errorf("%s port %d: %v", tc.private, tc.port, got)
		}
	}
}

func TestBounds(t *testing.T) {
	for _, o := range []Options{{Orders: 0, Pools: 1}, {Orders: MaxOrders + 1, Pools: 1}, {Orders: 1}, {Orders: 1, Pools: MaxPools + 1}} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%d orders over %d pools were taken", o.Orders, o.Pools)
		}
	}
}

func TestSeedChooses(t *testing.T) {
	w := &world{pools: []*pool{{id: "pool-a"}, {id: "pool-b"}}}
	text := func(seed uint64) string { return fmt.Sprint(orders(Options{Orders: 20, Seed: seed}, w)) }
	first, second := text(1), text(1)
	if first != second {
		t.Error("one seed, two lists of orders")
	}
	if text(1) == text(2) {
		t.Error("another seed gives the same orders")
	}
}
