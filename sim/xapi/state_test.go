package xapi

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// all reads every kept class of a pool as a client does.
func (b *bench) all() map[string]any {
	b.t.Helper()
	out := map[string]any{}
	for _, class := range []string{"pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics", "VBD", "VDI", "VIF", "SR", "PBD", "network", "PIF", "console", "SM"} {
		out[class] = b.must(class + ".get_all_records")
	}
	return out
}

// started is a VM that runs and carries a tag.
func (b *bench) started(name string) string {
	b.t.Helper()
	vm := b.machine(name)
	b.must("VM.add_to_other_config", vm, "slipway_machine", name)
	b.must("VM.start", vm, false, false)
	return vm
}

// A pool whose process is killed is the same one when it comes back: all but its sessions, its tasks and what was under way.
func TestStateOutlivesItsProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pool.state")
	// One that is killed closes nothing: the file is copied while the server lives.
	killed := func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "pool.state")
		if err := os.WriteFile(copied, append(text, `{"rows":[{"class":"VM","ref":"OpaqueRef:torn`...), 0o600); err != nil {
			t.Fatal(err)
		}
		return copied
	}
	first := newBench(t, func(c *Config) { c.State, c.Hosts, c.SharedSR = file, 2, true })
	kept := first.started("kept")
	gone := first.started("gone")
	first.must("VM.hard_shutdown", gone)
	for _, vbd := range first.must("VM.get_VBDs", gone).([]any) {
		if vdi := first.must("VBD.get_VDI", vbd); vdi != nullRef {
			first.must("VDI.destroy", vdi)
		}
	}
	first.must("VM.destroy", gone)
	before := first.all()
	release := first.s.Hold("VM.start")
	defer release()
	half := first.machine("half")
	first.must("Async.VM.start", half, false, false)
	waitFor(t, "the start stands", func() bool { return first.s.Held("VM.start") == 1 })

	told := make(chan Power, 16)
	second := newBench(t, func(c *Config) {
		c.State, c.Hosts, c.SharedSR, c.OnPower = killed(), 2, true, func(p Power) { told <- p }
	})
	vm := second.must("VM.get_record", half).(map[string]any)
	if vm["power_state"] != Halted || len(vm["current_operations"].(map[string]any)) != 0 || vm["scheduled_to_be_resident_on"] != nullRef {
		t.Errorf("a start that was interrupted left %v", vm)
	}
	if tasks := second.must("task.get_all_records").(map[string]any); len(tasks) != 0 {
		t.Errorf("tasks are left: %v", tasks)
	}
	if _, code, _ := second.raw(t.Context(), "VM.get_all", first.session); !slices.Contains(code, "SESSION_INVALID") {
		t.Errorf("an old session: %v", code)
	}
	states := map[string]string{}
	for range 2 {
		p := <-told
		states[p.Name] = p.State
		if p.Boot {
			t.Errorf("%s was not booted", p.Name)
		}
	}
	if diff := cmp.Diff(map[string]string{"kept": Running, "half": Halted}, states); diff != "" {
		t.Errorf("OnPower was told (-want +got):\n%s", diff)
	}
	waitFor(t, "VMs to start again", func() bool {
		_, code, err := second.raw(t.Context(), "VM.start", second.session, half, false, false)
		return err == nil && code == nil
	})
	if other := second.started("third"); other == kept || other == gone || other == half {
		t.Errorf("reference %s was given out twice", other)
	}

	// Apart from the time of being half-way, nothing is different.
	third := newBench(t, func(c *Config) { c.State, c.Hosts, c.SharedSR = killed(), 2, true })
	third.must("VM.hard_shutdown", kept)
	third.must("VM.destroy", half)
	fourth := newBench(t, func(c *Config) { c.State, c.Hosts, c.SharedSR = third.s.cfg.State, 2, true })
	if diff := cmp.Diff(third.all(), fourth.all(), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == `["enabled"]` }, cmp.Ignore())); diff != "" {
		t.Errorf("the pool that came back differs (-before +after):\n%s", diff)
	}
	if n := len(before["VM"].(map[string]any)); n != len(fourth.all()["VM"].(map[string]any)) {
		t.Errorf("%d VMs before, %d after", n, len(fourth.all()["VM"].(map[string]any)))
	}
}

func TestStateThatIsNone(t *testing.T) {
	for name, text := range map[string]string{"no lines": "", "no JSON": "hello\n", "another pool": `{"rows":[{"class":"teapot","ref":"OpaqueRef:1","created":1,"modified":1,"values":{}}],"gone":[]}` + "\n"} {
		file := filepath.Join(t.TempDir(), "pool.state")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := New(Config{Password: orchestrator.NewSecret("x"), State: file}); err == nil {
			s.Close()
			t.Errorf("%s: it starts", name)
		}
	}
}

func TestCertificateIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pool.pem")
	_, made, err := KeptCertificate(file, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cert, found, err := KeptCertificate(file, "127.0.0.1")
	if err != nil || found != made || cert.PrivateKey == nil {
		t.Errorf("made %s, found %s, %v", made, found, err)
	}
}
