package service_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/internal/demo"
	"slipway/internal/service"
	"slipway/sim/xapi"
)

// audited is a site with one finished machine.
type audited struct {
	t      *testing.T
	site   *demo.Site
	client *api.Client
	log    *lockedBuffer
	run    api.Run
	worker *service.Service
	stop   func() error
}

func newAudited(t *testing.T, change ...func(*config.Config)) *audited {
	t.Helper()
	a := &audited{t: t, site: site(t), log: &lockedBuffer{}}
	a.site.Config.Listen = free(t)
	for _, c := range change {
		c(a.site.Config)
	}
	w, stop := work(t, a.site, a.log)
	a.worker, a.stop = w, stop
	a.client = api.NewClient(a.site.Config.Socket)
	t.Cleanup(a.client.Close)
	put(t, w, order())
	var runs []api.Run
	until(t, "a machine is ready", func() bool {
		return a.client.Get(t.Context(), "/v1/runs", &runs) == nil && len(runs) == 1 && runs[0].Status == "done"
	})
	a.run = runs[0]
	return a
}

func (a *audited) audit() (out api.Audit) {
	a.t.Helper()
	if err := a.client.Get(a.t.Context(), "/v1/audit", &out); err != nil {
		a.t.Fatal(err)
	}
	return out
}

// lines are the findings in short.
func lines(a api.Audit) []string {
	out := []string{}
	for _, f := range a.Findings {
		mark := ""
		if f.Safe {
			mark = " safe"
		}
		if f.Repair == "" {
			mark += " without a command"
		}
		out = append(out, fmt.Sprintf("%s %s %s%s", f.Kind, f.Place, f.Owner(), mark))
	}
	slices.Sort(out)
	return out
}

func (a *audited) call(into any, method string, args ...any) {
	a.t.Helper()
	if err := a.site.Call(a.t.Context(), 0, into, method, args...); err != nil {
		a.t.Fatalf("%s: %v", method, err)
	}
}

type vmSeen struct {
	UUID, Name, Power string
	Template          bool
	Other             map[string]string
	VIFs              []string
}

func (a *audited) vms() map[string]vmSeen {
	a.t.Helper()
	var raw map[string]struct {
		UUID     string            `json:"uuid"`
		Name     string            `json:"name_label"`
		Power    string            `json:"power_state"`
		Template bool              `json:"is_a_template"`
		Other    map[string]string `json:"other_config"`
		VIFs     []string          `json:"VIFs"`
	}
	a.call(&raw, "VM.get_all_records")
	out := map[string]vmSeen{}
	for ref, vm := range raw {
		out[ref] = vmSeen(vm)
	}
	return out
}

// clone makes a VM of the template under a name, halted.
func (a *audited) clone(name string) (ref string) {
	a.t.Helper()
	for template, vm := range a.vms() {
		if vm.Template && vm.Other["slipway_image"] == "debian-12" {
			a.call(&ref, "VM.clone", template, name)
			return ref
		}
	}
	a.t.Fatal("there is no template")
	return ""
}

// stranger makes a VM that is nobody's and has a MAC.
func (a *audited) stranger(name, mac string) (ref string) {
	a.t.Helper()
	ref = a.clone(name)
	a.call(nil, "VM.provision", ref)
	a.call(nil, "VM.remove_from_other_config", ref, "slipway_image")
	var vifs []string
	var vif struct {
		Network string `json:"network"`
	}
	a.call(&vifs, "VM.get_VIFs", ref)
	a.call(&vif, "VIF.get_record", vifs[0])
	for _, v := range vifs {
		a.call(nil, "VIF.destroy", v)
	}
	a.call(nil, "VIF.create", map[string]any{"device": "0", "network": vif.Network, "VM": ref, "MAC": mac, "MTU": "1500",
		"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	return ref
}

func (a *audited) hosts() string {
	return filepath.Join(filepath.Dir(a.site.Path), "appliances", "dhcp-pool-a", "slipway-hosts.conf")
}

func (a *audited) edit(change func(string) string) {
	a.t.Helper()
	text, err := os.ReadFile(a.hosts())
	if err == nil {
		err = os.WriteFile(a.hosts(), []byte(change(string(text))), 0o644)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *audited) mac() string {
	a.t.Helper()
	var m api.Machine
	if err := a.client.Get(a.t.Context(), "/v1/machines/"+a.run.Machine, &m); err != nil {
		a.t.Fatal(err)
	}
	return m.Placement.MAC
}

// What is leaked, strange, different or missing is found, each with its owner and its command; what is safe is put right and nothing else, and
// what is not ours stays as it is.
func TestAuditAndRepair(t *testing.T) {
	a := newAudited(t)
	first := a.audit()
	if !first.Clean() || first.Newer {
		t.Fatalf("a site where all is well: %v, not read %v", lines(first), first.Unread)
	}
	for _, resource := range []string{"address", "mac", "port", "name", "memory", "storage"} {
		if !slices.ContainsFunc(first.Ledger, func(l api.Account) bool { return l.Resource == resource && l.Held > 0 && l.Balances }) {
			t.Errorf("the ledger has no %s that is held: %+v", resource, first.Ledger)
		}
	}

	late := a.clone("slipway-" + a.run.Machine + "-" + a.run.Run + "-1")
	twin := a.stranger("twin", a.mac())
	guest := a.stranger("guest", "02:16:3e:00:77:01")
	a.edit(func(text string) string { return strings.ReplaceAll(text, "10.77.0.", "10.77.9.") })
	before := a.vms()
	found := a.audit()
	want := []string{
		"drift dhcp-pool-a/dhcp-pool-a-1 machine acme/web-1 safe",
		"leak pool pool-a machine acme/web-1 safe",
		"stranger pool pool-a machine acme/web-1",
		"stranger pool pool-a pool pool-a safe",
	}
	if diff := cmp.Diff(want, lines(found)); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	for _, f := range found.Findings {
		if f.Machine != "" && (f.Tenant != "acme" || f.Order != "panel 1") {
			t.Errorf("whose it is: %+v", f)
		}
	}

	var told, done api.Repaired
	if err := a.client.Post(t.Context(), "/v1/audit/repair", api.Repair{}, &told); err != nil || told.Done || len(told.Plan) != 3 {
		t.Fatalf("without yes: %+v, %v", told, err)
	}
	if again := a.audit(); !cmp.Equal(want, lines(again)) {
		t.Errorf("a repair that was not asked for changed something: %v", lines(again))
	}
	var refused *api.Error
	if err := a.client.Post(t.Context(), "/v1/audit/repair", api.Repair{Yes: true}, nil); !asRefusal(err, &refused) || refused.Code != api.CodeRefused {
		t.Errorf("without a reason: %v", err)
	}
	if err := a.client.Post(t.Context(), "/v1/audit/repair", api.Repair{Yes: true, Reason: "monday"}, &done); err != nil || !done.Done || len(done.Failed) > 0 || len(done.Did) != 3 {
		t.Fatalf("with yes: %+v, %v", done, err)
	}
	after := a.vms()
	if _, still := after[late]; still {
		t.Error("the late clone is still there")
	}
	delete(before, late)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("VMs that are not leaked were touched:\n%s", diff)
	}
	if after[twin].Name != "twin" || after[guest].Name != "guest" {
		t.Error("a stranger is gone")
	}
	if diff := cmp.Diff([]string{"stranger pool pool-a machine acme/web-1"}, lines(a.audit())); diff != "" {
		t.Errorf("afterwards: -want +got:\n%s", diff)
	}
}

// A VM that has no tag of ours, or one that was copied along with an export, is never touched, whatever it is called and however halted it is.
func TestRepairLeavesWhatHasNoTag(t *testing.T) {
	a := newAudited(t)
	copied := a.stranger("copy", "02:16:3e:00:77:02")
	a.call(nil, "VM.add_to_other_config", copied, "slipway_machine", a.run.Machine) // and the original's slipway_self
	a.call(nil, "VM.add_to_other_config", copied, "slipway_self", "00000000-0000-4000-8000-000000000001")
	named := a.stranger("slipway-"+a.run.Machine+"-"+a.run.Run+"-2", "02:16:3e:00:77:03") // no template: no clone of ours
	before := a.vms()
	var done api.Repaired
	if err := a.client.Post(t.Context(), "/v1/audit/repair", api.Repair{Yes: true, Reason: "test"}, &done); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, a.vms()); diff != "" {
		t.Errorf("touched:\n%s\n%+v", diff, done)
	}
	if _, there := before[copied]; !there || before[named].Name == "" {
		t.Error("the test made nothing")
	}
}

// What the database does not know and carries our tag is newer than it: nothing is repaired then.
func TestAuditOfAnOlderDatabase(t *testing.T) {
	a := newAudited(t)
	const unknown = "11111111-2222-4333-8444-555555555555"
	a.clone("slipway-" + a.run.Machine + "-" + a.run.Run + "-1")
	a.edit(func(text string) string { return strings.ReplaceAll(text, a.run.Machine, unknown) })
	found := a.audit()
	if diff := cmp.Diff([]string{
		"drift dhcp-pool-a/dhcp-pool-a-1 machine acme/web-1", "leak pool pool-a machine acme/web-1", "newer dhcp-pool-a/dhcp-pool-a-1 machine " + unknown,
	}, lines(found)); diff != "" || !found.Newer {
		t.Errorf("newer %t, -want +got:\n%s", found.Newer, diff)
	}
	var done api.Repaired
	if err := a.client.Post(t.Context(), "/v1/audit/repair", api.Repair{Yes: true, Reason: "test"}, &done); err != nil || len(done.Plan) > 0 {
		t.Errorf("repaired: %+v, %v", done, err)
	}
}

// A place that cannot be read is said to be, and is not clean.
func TestAuditSaysWhatItCouldNotRead(t *testing.T) {
	a := newAudited(t)
	if err := a.site.Fault(0, xapi.Fault{Method: "VDI.get_all_records", Times: 1000, Error: []string{"INTERNAL_ERROR", "no"}}); err != nil {
		t.Fatal(err)
	}
	found := a.audit()
	if found.Clean() || len(found.Unread) == 0 || found.Unread[0].Place != "pool pool-a" {
		t.Errorf("clean %t, not read %v", found.Clean(), found.Unread)
	}
}

// A worker audits by itself: what it finds is logged once and not each time, is told to whoever is notified, and counted; what is gone is said.
func TestAuditIsPeriodic(t *testing.T) {
	var mu sync.Mutex
	var posted []string
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, string(body))
	}))
	defer hook.Close()
	a := newAudited(t, func(c *config.Config) {
		c.Audit.Every, c.Notify.Webhook = 100*time.Millisecond, hook.URL
	})
	numbers := func(want ...string) func() bool {
		return func() bool {
			_, text := get(t, "http://"+a.site.Config.Listen+"/metrics")
			return !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(text, line+"\n") })
		}
	}
	audits := func() string {
		_, text := get(t, "http://"+a.site.Config.Listen+"/metrics")
		_, after, _ := strings.Cut(text, "\nslipway_audit_last_seconds ")
		line, _, _ := strings.Cut(after, "\n")
		return line
	}
	until(t, "an audit finds nothing", numbers(`slipway_audit_findings{kind="drift"} 0`, `slipway_audit_findings{kind="leak"} 0`, "slipway_audit_unread 0"))
	a.edit(func(text string) string { return text + "# by hand\n" })
	until(t, "it is counted", numbers(`slipway_audit_findings{kind="drift"} 1`))
	for range 2 { // whole seconds
		at := audits()
		until(t, "another audit", func() bool { return audits() != at })
	}
	if n := strings.Count(a.log.String(), "msg=\"audit finding\" kind=drift"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, a.log.String())
	}
	a.edit(func(text string) string { return strings.TrimSuffix(text, "# by hand\n") })
	until(t, "it is gone", numbers(`slipway_audit_findings{kind="drift"} 0`))
	until(t, "that is said", func() bool { return strings.Contains(a.log.String(), "audit findings gone") })
	told := func(what string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, body := range posted {
			var event struct {
				Type string
				Data struct{ New, Gone []api.Finding }
			}
			if err := json.Unmarshal([]byte(body), &event); err != nil || event.Type != "slipway.audit.changed" {
				t.Errorf("told %s: %v", body, err)
			}
			for _, f := range map[string][]api.Finding{"new": event.Data.New, "gone": event.Data.Gone}[what] {
				if f.Kind == api.FindingDrift {
					n++
				}
			}
		}
		return n
	}
	until(t, "both are told", func() bool { return told("gone") > 0 })
	if fresh, gone := told("new"), told("gone"); fresh != 1 || gone != 1 {
		t.Errorf("told %d times of it, %d times of its end: %q", fresh, gone, posted)
	}
}

// Somebody migrates a machine: an audit says so until the pool is read again, and then its memory counts where it runs.
func TestMemoryFollowsAMigration(t *testing.T) {
	a := newAudited(t)
	machine := func() (m api.Machine) {
		if err := a.client.Get(t.Context(), "/v1/machines/"+a.run.Machine, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	reserved := func() map[string]int64 {
		var pools []api.Pool
		if err := a.client.Get(t.Context(), "/v1/pools", &pools); err != nil {
			t.Fatal(err)
		}
		out := map[string]int64{}
		for _, h := range pools[0].Hosts {
			out[h.UUID] = h.ReservedMiB
		}
		return out
	}
	m := machine()
	var ref, to string
	a.call(&ref, "VM.get_by_uuid", m.VM)
	for host, memory := range reserved() {
		if host != m.Placement.Host {
			to = host
		} else if memory == 0 {
			t.Fatal("nothing is reserved")
		}
	}
	was := reserved()
	var there string
	a.call(&there, "host.get_by_uuid", to)
	a.call(nil, "VM.pool_migrate", ref, there, map[string]any{})
	if diff := cmp.Diff([]string{"drift pool pool-a machine acme/web-1"}, lines(a.audit())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	a.worker, a.stop = work(t, a.site, a.log) // which reads the pool
	until(t, "the machine is counted on its new host", func() bool {
		var m api.Machine
		return a.client.Get(t.Context(), "/v1/machines/"+a.run.Machine, &m) == nil && m.Placement.Host == to
	})
	if diff := cmp.Diff(map[string]int64{to: was[m.Placement.Host], m.Placement.Host: was[to]}, reserved()); diff != "" {
		t.Errorf("reserved: -want +got:\n%s", diff)
	}
	if found := a.audit(); !found.Clean() {
		t.Errorf("afterwards: %v", lines(found))
	}
}
