package xapi

import (
	"fmt"
	"strings"
	"testing"
)

// machine clones and provisions a VM.
func (b *bench) machine(name string) string {
	b.t.Helper()
	vm := b.must("VM.clone", b.template(), name).(string)
	b.must("VM.provision", vm)
	return vm
}

func TestCallsDuringAStart(t *testing.T) {
	b := newBench(t, nil)
	vm := b.machine("a")
	release := b.s.Hold("VM.start")
	defer release()
	start := b.must("Async.VM.start", vm, false, false).(string)
	waitFor(t, "the start stands", func() bool { return b.s.Held("VM.start") == 1 })
	rec := b.record("VM", vm)
	if rec["power_state"] != Halted || fmt.Sprint(rec["current_operations"]) != "map["+start+":start]" || len(rec["allowed_operations"].([]any)) != 0 {
		t.Fatalf("during the start: %v %v %v", rec["power_state"], rec["current_operations"], rec["allowed_operations"])
	}
	b.must("VM.set_name_label", vm, "renamed") // goes through
	b.refuses([]string{"VM_BAD_POWER_STATE", vm, "paused, suspended, running", "halted"}, "VM.hard_shutdown", vm)
	type answer struct{ method, failed string }
	answers := make(chan answer, 3)
	for method, params := range map[string][]any{"VM.start": {vm, false, false}, "VM.destroy": {vm}, "VM.clone": {vm, "b"}} {
		go func() {
			_, failed, err := b.raw(t.Context(), method, append([]any{b.session}, params...)...)
			answers <- answer{method, fmt.Sprint(failed, err)}
		}()
	}
	waitFor(t, "three calls wait", func() bool {
		n := 0
		for _, rec := range b.must("task.get_all_records_where", `field "status" = "pending"`).(map[string]any) {
			if !strings.HasPrefix(rec.(map[string]any)["name_label"].(string), "Async.") {
				n++
			}
		}
		return n == 3
	})
	release()
	for range 3 {
		if a := <-answers; !strings.HasPrefix(a.failed, "[VM_BAD_POWER_STATE") {
			t.Errorf("%s: %s", a.method, a.failed)
		}
	}
	if rec := b.task(start); rec["status"] != "success" || rec["result"] != "<value></value>" {
		t.Errorf("start: %v", rec)
	}
	if b.record("VM", vm)["power_state"] != Running {
		t.Error("not running")
	}
}

func TestClonesOfOneTemplateTakeTurns(t *testing.T) {
	b := newBench(t, nil)
	release := b.s.Hold("VM.clone")
	defer release()
	tasks := []string{b.must("Async.VM.clone", b.template(), "a").(string), b.must("Async.VM.clone", b.template(), "b").(string)}
	waitFor(t, "both clones are on the template", func() bool {
		return len(b.record("VM", b.template())["current_operations"].(map[string]any)) == 2
	})
	if n := b.s.Held("VM.clone"); n != 1 {
		t.Fatalf("%d clones work on the disk at once", n)
	}
	release()
	for _, ref := range tasks {
		if rec := b.task(ref); rec["status"] != "success" {
			t.Errorf("%v", rec["error_info"])
		}
	}
}

func TestHardShutdownCancelsACleanOne(t *testing.T) {
	b := newBench(t, nil)
	vm := b.machine("a")
	b.must("VM.start", vm, false, false)
	release := b.s.Hold("VM.clean_shutdown")
	defer release()
	clean := b.must("Async.VM.clean_shutdown", vm).(string)
	waitFor(t, "the clean shutdown stands", func() bool { return b.s.Held("VM.clean_shutdown") == 1 })
	b.must("VM.hard_shutdown", vm)
	release()
	if rec := b.task(clean); rec["status"] != "success" || len(rec["current_operations"].(map[string]any)) != 1 {
		t.Fatalf("clean shutdown: %v", rec)
	}
}

func TestCancelIsOnlyAWish(t *testing.T) {
	b := newBench(t, nil)
	release := b.s.Hold("VM.clone")
	defer release()
	ref := b.must("Async.VM.clone", b.template(), "a").(string)
	waitFor(t, "the clone stands", func() bool { return b.s.Held("VM.clone") == 1 })
	b.must("task.cancel", ref)
	if rec := b.record("task", ref); rec["status"] != "pending" || len(rec["current_operations"].(map[string]any)) != 1 {
		t.Fatalf("%v", rec)
	}
	release()
	if rec := b.task(ref); rec["status"] != "success" {
		t.Fatalf("%v", rec)
	}
}

func TestRestart(t *testing.T) {
	b := newBench(t, nil)
	vm := b.machine("runs on")
	b.must("VM.start", vm, false, false)
	release := b.s.Hold("VM.clone")
	defer release()
	ref := b.must("Async.VM.clone", b.template(), "in flight").(string)
	waitFor(t, "the clone stands", func() bool { return b.s.Held("VM.clone") == 1 })
	old := b.session
	b.s.Restart()
	b.refuses([]string{"SESSION_INVALID", old}, "VM.get_all")
	b.session = ""
	b.session = b.must("session.login_with_password", "root", "secret").(string)
	b.refuses([]string{"HANDLE_INVALID", "task", ref}, "task.get_record", ref)
	waitFor(t, "the clone ends", func() bool { return b.s.Held("VM.clone") == 0 })
	if list := b.must("VM.get_by_name_label", "in flight").([]any); len(list) != 0 {
		t.Error("the clone in flight left a VM")
	}
	if b.record("VM", vm)["power_state"] != Running {
		t.Error("a running VM has to run on")
	}
	release()
	other := b.machine("starts later")
	b.refuses([]string{"NO_HOSTS_AVAILABLE"}, "VM.start", other, false, false)
	b.s.EnableHosts()
	b.must("VM.start", other, false, false)
}
