package service_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipway/internal/api"
	"slipway/internal/service"
	"slipway/orchestrator"
)

// A database that is put back from an hour ago knows nothing of two installs and an uninstall. Nothing live is removed or overwritten, nothing
// that is in use is given out, the audit shows what is newer, and adopt brings it back.
func TestRestoredDatabase(t *testing.T) {
	a := newAudited(t)
	stop := a.stop
	restart := func() {
		t.Helper()
		var w *service.Service
		w, stop = work(t, a.site, a.log)
		a.worker = w
		until(t, "serve answers", func() bool { var runs []api.Run; return a.client.Get(t.Context(), "/v1/runs", &runs) == nil })
	}
	end := func() {
		t.Helper()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string) (r api.Run) {
		t.Helper()
		var runs []api.Run
		if err := a.client.Get(t.Context(), "/v1/runs", &runs); err != nil {
			t.Fatal(err)
		}
		for _, r := range runs { // newest first
			if r.Name == name {
				return r
			}
		}
		return api.Run{}
	}
	install := func(name string) {
		t.Helper()
		o := order()
		o.ID, o.Name = name, name
		put(t, a.worker, o)
	}
	place := func(machine string) api.Placement {
		t.Helper()
		var m api.Machine
		if err := a.client.Get(t.Context(), "/v1/machines/"+machine, &m); err != nil {
			t.Fatal(err)
		}
		return m.Placement
	}
	act := func(path string) {
		t.Helper()
		if err := a.client.Post(t.Context(), path, api.Act{Yes: true, Reason: "restored"}, nil); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	gone := a.run.Machine
	end()
	path := strings.TrimPrefix(a.site.Config.Database, "sqlite:")
	backup := filepath.Join(t.TempDir(), "backup.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err == nil {
		_, err = db.ExecContext(t.Context(), `VACUUM INTO ?`, backup)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	restart() // the hour that is lost
	install("web-2")
	install("web-3")
	until(t, "two more are ready", func() bool { return run("web-2").Status == "done" && run("web-3").Status == "done" })
	uninstall := orchestrator.Order{Source: "panel", ID: "u1", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: gone}
	put(t, a.worker, uninstall)
	until(t, "the first is removed", func() bool { r := run("web-1"); return r.Process == "uninstall" && r.Status == "done" })
	lost := map[string]api.Placement{run("web-2").Machine: place(run("web-2").Machine), run("web-3").Machine: place(run("web-3").Machine)}
	end()

	files := a.files()
	vms := a.vms()
	for _, ending := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + ending); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Rename(backup, path); err != nil {
		t.Fatal(err)
	}
	restart()
	install("web-4")
	until(t, "nothing is given out", func() bool { return strings.Contains(run("web-4").Reason, "may be an older copy") })
	found := a.audit()
	for id := range lost {
		if !found.Newer || !slices.ContainsFunc(found.Findings, func(f api.Finding) bool {
			return f.Kind == api.FindingNewer && f.Machine == id && f.Repair == "slipway adopt "+id
		}) {
			t.Errorf("machine %s is not found to be newer: %v", id, lines(found))
		}
	}
	if !slices.ContainsFunc(found.Findings, func(f api.Finding) bool { return f.Kind == api.FindingMissing && f.Machine == gone }) {
		t.Errorf("the VM of the machine that was uninstalled is not missing: %v", lines(found))
	}
	if slices.ContainsFunc(found.Findings, func(f api.Finding) bool { return f.Safe && f.Kind != api.FindingStranger }) {
		t.Errorf("something would be removed: %v", lines(found))
	}
	for id := range lost {
		act("/v1/adopt/" + id)
		var refused *api.Error
		if err := a.client.Post(t.Context(), "/v1/adopt/"+id, api.Act{Yes: true, Reason: "again"}, nil); !asRefusal(err, &refused) || refused.Code != api.CodeConflict {
			t.Errorf("adopted twice: %v", err)
		}
	}
	for id, before := range lost {
		if now := place(id); now.Private != before.Private || now.Public != before.Public || now.MAC != before.MAC || now.ConsolePort != before.ConsolePort {
			t.Errorf("machine %s has %+v again, had %+v", id, now, before)
		}
	}
	var groups []api.Group
	halted := func() (n int) {
		if err := a.client.Get(t.Context(), "/v1/groups", &groups); err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			for _, m := range g.Members {
				if strings.HasPrefix(m.Halted, "newer: ") {
					n++
				}
			}
		}
		return n
	}
	until(t, "every appliance halts", func() bool { return halted() == len(groups) && len(groups) == 3 })
	if now := a.files(); now != files {
		t.Errorf("appliances were changed:\n%s\nwere\n%s", now, files)
	}
	for ref, vm := range vms {
		if now := a.vms()[ref]; now.UUID != vm.UUID || now.Power != vm.Power {
			t.Errorf("VM %s (%s) is %+v now", vm.UUID, vm.Name, now)
		}
	}
	for _, g := range groups {
		for _, m := range g.Members {
			act(fmt.Sprintf("/v1/groups/%s/members/%s/resume", g.ID, m.Name))
		}
	}
	until(t, "the order that waited is done", func() bool { return run("web-4").Status == "done" })
	fourth := place(run("web-4").Machine)
	for id, p := range lost {
		if p.Private == fourth.Private || p.Public == fourth.Public || p.MAC == fourth.MAC || p.ConsolePort == fourth.ConsolePort {
			t.Errorf("%+v was given out again though machine %s has %+v", fourth, id, p)
		}
	}
	put(t, a.worker, uninstall)
	until(t, "the first is removed again", func() bool { r := run("web-1"); return r.Process == "uninstall" && r.Status == "done" })
	if end := a.audit(); !end.Clean() {
		t.Errorf("in the end: %v, not read %v", lines(end), end.Unread)
	}
	report, err := a.site.Audit(t.Context(), a.worker)
	if err != nil || !report.Clean() {
		t.Errorf("%+v, %v", report, err)
	}
	again := order()
	again.ID, again.Name = "web-2", "web-2"
	put(t, a.worker, again) // the panel is not sure and says it again
	for id := range lost {
		o := orchestrator.Order{Source: "panel", ID: "u-" + id, Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: id}
		put(t, a.worker, o)
		until(t, "an adopted machine is removed as any other", func() bool {
			var m api.Machine
			return a.client.Get(t.Context(), "/v1/machines/"+id, &m) == nil && m.Presence == "absent"
		})
	}
	if end := a.audit(); !end.Clean() {
		t.Errorf("after their uninstalls: %v", lines(end))
	}
}

// files are what lies on the appliances.
func (a *audited) files() string {
	a.t.Helper()
	var out strings.Builder
	root := filepath.Join(filepath.Dir(a.site.Path), "appliances")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{"slipway-hosts.conf", "slipway.conf", "rules.v4"}, d.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		_, _ = fmt.Fprintf(&out, "%s:\n%s", d.Name(), text)
		return err
	})
	if err != nil || out.Len() == 0 {
		a.t.Fatalf("read %d bytes: %v", out.Len(), err)
	}
	return out.String()
}
