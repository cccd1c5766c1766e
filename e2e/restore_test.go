package e2e

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
	"slipway/orchestrator"
)

// PostgreSQL is put back, as the runbook has it, from before two installs and an uninstall. The appliances halt, the audit shows what is newer,
// adopt and resume bring it back; and all the while every machine in use answers its customers and has its address and its rules.
func TestOldBackupIsRestored(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	dump, restore := testenv.Need(t, "pg_dump"), testenv.Need(t, "pg_restore")
	s := newSite(t, siteConfig{pools: 1, postgres: testserver.PostgreSQL(t), lease: 5 * time.Second})
	w := s.serve("worker")
	all := orders(t, 5)
	order := func(w *worker, body []byte) {
		t.Helper()
		if err := w.api.Post(t.Context(), "/v1/orders", body, &api.Accepted{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, body := range all[:3] {
		order(w, body)
	}
	s.done(w, 3, 2*time.Minute)
	backup := filepath.Join(t.TempDir(), "slipway.dump")
	s.run(dump, "-Fc", "--file", backup, s.dsn) // serve works on

	named := func(name string) orchestrator.Machine {
		t.Helper()
		machines := s.machines()
		i := slices.IndexFunc(machines, func(m orchestrator.Machine) bool { return m.Name == name })
		if i < 0 {
			t.Fatalf("no machine is named %s", name)
		}
		return machines[i]
	}
	gone := named("vm-0001")
	leave := newOrder("leave", "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": gone.ID}).json(t)
	for _, body := range append(slices.Clone(all[3:]), leave) { // the time that is lost
		order(w, body)
	}
	s.done(w, 6, 2*time.Minute)
	live := []orchestrator.Machine{named("vm-0002"), named("vm-0003"), named("vm-0004"), named("vm-0005")}
	lost := live[2:]
	s.counted(len(live))
	w.Signal(syscall.SIGTERM)
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	before := s.inUse(live, gone)
	reached := s.reach(live)

	s.run(restore, "--clean", "--if-exists", "--exit-on-error", "-d", s.dsn, backup)
	w = s.serve("restored")
	found := s.audited(w)
	for _, m := range lost {
		if !slices.ContainsFunc(found, func(f api.Finding) bool {
			return f.Kind == api.FindingNewer && f.Machine == m.ID && f.Repair == "slipway adopt "+m.ID
		}) {
			t.Errorf("%s is not found to be newer: %+v", m.Name, found)
		}
	}
	if !slices.ContainsFunc(found, func(f api.Finding) bool { return f.Kind == api.FindingMissing && f.Machine == gone.ID }) {
		t.Errorf("the machine that was removed is not missing: %+v", found)
	}
	for _, m := range lost {
		s.cli("restored", "adopt", m.ID, "--yes", "--reason", "restored")
	}
	testnet.Until(t, 2*time.Minute, "every appliance to halt", func() bool {
		return !slices.ContainsFunc(s.members(w), func(m api.Member) bool { return !strings.HasPrefix(m.Halted, "newer: ") })
	})
	if diff := cmp.Diff(before, s.inUse(live, gone)); diff != "" {
		t.Errorf("while the appliances are halted, -before +now:\n%s", diff)
	}

	for _, group := range []string{"dhcp", "firewall", "console"} {
		s.cli("restored", "group", "resume", group, group+"-1", "--yes", "--reason", "restored")
	}
	order(w, leave) // as the finding says
	testnet.Until(t, 2*time.Minute, "the machine that was removed to be removed again", func() bool {
		return slices.ContainsFunc(s.mustRuns(w), func(r api.Run) bool { return r.Process == "uninstall" && r.Status == "done" })
	})
	for _, m := range s.members(w) {
		if m.Halted != "" || m.Dirty {
			t.Errorf("in the end %+v", m)
		}
	}
	if findings := s.audited(w); len(findings) > 0 {
		t.Errorf("in the end the audit finds %+v", findings)
	}
	s.counted(len(live))
	s.bootedOnce()
	now := s.inUse(live, gone)
	before.Consoles, now.Consoles = "", "" // those of the adopted machines have new passwords
	if diff := cmp.Diff(before, now); diff != "" {
		t.Errorf("in the end, -before +now:\n%s", diff)
	}
	reached()
}

// run runs a program of the operator's on this machine.
func (s *site) run(program string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", filepath.Base(program), err, out)
	}
}

// audited are an audit's findings, in an estate that can be read.
func (s *site) audited(w *worker) []api.Finding {
	s.t.Helper()
	var found api.Audit
	if err := w.api.Get(s.t.Context(), "/v1/audit", &found); err != nil {
		s.t.Fatal(err)
	}
	if len(found.Unread) > 0 {
		s.t.Errorf("not read: %v", found.Unread)
	}
	return found.Findings
}

func (s *site) members(w *worker) (members []api.Member) {
	s.t.Helper()
	var groups []api.Group
	if err := w.api.Get(s.t.Context(), "/v1/groups", &groups); err != nil {
		s.t.Fatal(err)
	}
	for _, g := range groups {
		members = append(members, g.Members...)
	}
	return members
}

// inUse is what customers live on.
type inUse struct {
	Rules    string            // as they run, without counters
	Hosts    string            // dhcpd's file
	Offers   map[string]string // by MAC, of the dhcpd that runs
	Consoles string
	VMs      map[string]string // name and power by uuid
}

func (s *site) inUse(live []orchestrator.Machine, gone orchestrator.Machine) inUse {
	s.t.Helper()
	u := inUse{Hosts: s.dhcp.read(hostsFile), Offers: map[string]string{}, Consoles: s.console.read(consoleFile), VMs: map[string]string{}}
	var rules []string
	for line := range strings.Lines(s.fw.MustRun("iptables-save")) {
		if !strings.HasPrefix(line, "#") {
			line, _, _ = strings.Cut(line, " [")
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	u.Rules = strings.Join(rules, "\n")
	var macs []string
	for _, m := range live {
		macs = append(macs, m.Placement.MAC)
	}
	for mac, address := range s.offers(append([]string{gone.Placement.MAC}, macs...), macs) {
		u.Offers[mac] = address.String()
	}
	var vms map[string]struct {
		UUID     string `json:"uuid"`
		Name     string `json:"name_label"`
		Power    string `json:"power_state"`
		Template bool   `json:"is_a_template"`
	}
	if err := s.pools[0].local.Call(s.t.Context(), "VM.get_all_records", &vms); err != nil {
		s.t.Fatal(err)
	}
	for _, vm := range vms {
		if !vm.Template {
			u.VMs[vm.UUID] = vm.Name + " " + vm.Power
		}
	}
	return u
}

// reach has a customer go to each machine's SSH port again and again, until the function that comes back is called: it is an error if one
// did not answer, once.
func (s *site) reach(machines []orchestrator.Machine) (end func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var going sync.WaitGroup
	tried := 0
	going.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, m := range machines {
				words, err := listening(s.customer, net.JoinHostPort(m.Placement.Public.String(), "22"), 30*time.Second)
				if err != nil || !strings.HasPrefix(words, "SSH-2.0-") {
					s.t.Errorf("%s says %q to a customer, %v", m.Name, words, err)
				}
				tried++
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	stop := sync.OnceFunc(func() { cancel(); going.Wait() })
	s.t.Cleanup(stop)
	return func() {
		s.t.Helper()
		stop()
		if tried < 2*len(machines) {
			s.t.Errorf("the machines were tried %d times", tried)
		}
	}
}
