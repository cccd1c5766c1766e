// Package hypervisortest is what every backend of orchestrator.Hypervisor must do. A backend is done when Exercise is green on it:
//
//	func TestHypervisor(t *testing.T) {
//		hypervisortest.Exercise(t, func(t *testing.T) hypervisortest.World { … })
//	}
package hypervisortest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"slipway/orchestrator"
)

// World is a pool that one test has for itself: one enabled host at least, a storage with 100 GiB free, a network, and the template of an
// image with a disk of at most 10 GiB.
type World struct {
	Hypervisor orchestrator.Hypervisor
	Pool       string
	Image      string
	Network    string
	// ReportGuest lets the guest behind a MAC report an address through its agent. nil: the world has no guests.
	ReportGuest func(mac string, address netip.Addr)
}

// Exercise runs the suite; open is called once for each test of it.
func Exercise(t *testing.T, open func(t *testing.T) World) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *bundle)
	}{
		{"life cycle", lifeCycle},
		{"every verb twice", everyVerbTwice},
		{"nothing there", nothingThere},
		{"a clone that nobody recorded is adopted", adoption},
		{"of two clones one is kept", twoClones},
		{"what comes too late is removed", strays},
		{"a late clone is removed", lateClone},
		{"another machine's VM is not touched", anothersVM},
		{"what does not exist", unknowns},
		{"no room", noRoom},
		{"inventory", inventory},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bundle{World: open(t)}
			inv, err := b.Hypervisor.Inventory(t.Context(), b.Pool)
			if err != nil {
				t.Fatalf("Inventory: %v", err)
			}
			if len(inv.Hosts) == 0 || len(inv.SRs) == 0 || inv.Templates[b.Image] == "" {
				t.Fatalf("the world is not as described: %+v", inv)
			}
			b.inventory, b.host = inv, inv.Hosts[0].UUID
			for _, sr := range inv.SRs {
				if slices.Contains(sr.Hosts, b.host) {
					b.sr = sr.UUID
				}
			}
			tt.run(t, b)
		})
	}
}

// bundle is a world with what was found in it.
type bundle struct {
	World
	inventory orchestrator.Inventory
	host, sr  string
}

// spec is machine n's.
func (b *bundle) spec(n, attempt int) orchestrator.MachineSpec {
	return orchestrator.MachineSpec{
		MachineRef: orchestrator.MachineRef{Pool: b.Pool, Machine: fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n)},
		Run:        fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", n), Attempt: attempt,
		Image: b.Image, Plan: orchestrator.Plan{VCPUs: 2, MemoryMiB: 1024, DiskGiB: 20},
		SR: b.sr, Host: b.host, Network: b.Network,
		MAC: fmt.Sprintf("02:16:3e:00:00:%02x", n), Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Hostname: fmt.Sprintf("host-%d", n),
	}
}

const patience = 30 * time.Second

// wait follows a task to its end.
func (b *bundle) wait(t *testing.T, task string) orchestrator.Task {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := b.Hypervisor.ObserveTask(t.Context(), b.Pool, task)
		if err != nil {
			t.Fatalf("ObserveTask: %v", err)
		}
		if state.State != orchestrator.TaskPending {
			return state
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("task %s is still pending after %s", task, patience)
		}
	}
}

// succeed waits for a task that must work; "" is one that was not needed.
func (b *bundle) succeed(t *testing.T, task string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if task == "" {
		return
	}
	if state := b.wait(t, task); state.State != orchestrator.TaskSucceeded {
		t.Fatalf("task: %+v", state)
	}
	if err := b.Hypervisor.ForgetTask(t.Context(), b.Pool, task); err != nil {
		t.Errorf("ForgetTask: %v", err)
	}
}

// clone makes a clone and finds it.
func (b *bundle) clone(t *testing.T, spec orchestrator.MachineSpec) orchestrator.VM {
	t.Helper()
	task, err := b.Hypervisor.StartClone(t.Context(), spec)
	b.succeed(t, task, err)
	vm, err := b.Hypervisor.FindMachine(t.Context(), spec.MachineRef)
	if err != nil {
		t.Fatalf("FindMachine after the clone: %v", err)
	}
	return vm
}

// create makes a machine up to its shape.
func (b *bundle) create(t *testing.T, spec orchestrator.MachineSpec) (orchestrator.MachineRef, orchestrator.VM) {
	t.Helper()
	vm, err := b.Hypervisor.ShapeMachine(t.Context(), spec, b.clone(t, spec).UUID)
	if err != nil {
		t.Fatalf("ShapeMachine: %v", err)
	}
	ref := spec.MachineRef
	ref.VM = vm.UUID
	return ref, vm
}

func (b *bundle) find(t *testing.T, ref orchestrator.MachineRef) orchestrator.VM {
	t.Helper()
	vm, err := b.Hypervisor.FindMachine(t.Context(), ref)
	if err != nil {
		t.Fatalf("FindMachine: %v", err)
	}
	return vm
}

func (b *bundle) gone(t *testing.T, ref orchestrator.MachineRef) {
	t.Helper()
	if vm, err := b.Hypervisor.FindMachine(t.Context(), ref); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("FindMachine = %+v, %v; want ErrNotFound", vm, err)
	}
}

func diskIDs(vm orchestrator.VM) []string {
	var out []string
	for _, d := range vm.Disks {
		out = append(out, d.UUID)
	}
	return out
}

func wantKind(t *testing.T, what string, err error, want orchestrator.Kind) {
	t.Helper()
	if got := orchestrator.KindOf(err); got != want {
		t.Errorf("%s: kind %q (%v), want %q", what, got, err, want)
	}
}
