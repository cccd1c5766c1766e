// Package namestest is what every backend of orchestrator.Names must do. A backend is done when Exercise is green on it:
//
//	func TestNames(t *testing.T) {
//		namestest.Exercise(t, func(t *testing.T) namestest.World { … })
//	}
package namestest

import (
	"fmt"
	"net/netip"
	"testing"

	"slipway/orchestrator"
)

// World is a DNS that has a forward zone and the reverse zone of 198.51.100.0/24.
type World struct {
	Names                   orchestrator.Names
	Pool, Zone, ReverseZone string
	Put                     func(t *testing.T, name, value string) // somebody else's work: an address makes an A, a name a PTR, "" takes either away
	Holds                   func(t *testing.T, name string) string // the one address or name that it has, as anybody sees it; "" for none
}

const (
	machine = "30000000-0000-4000-8000-000000000001"
	another = "30000000-0000-4000-8000-000000000002"
	theirs  = "203.0.113.9"
)

type bundle struct {
	*testing.T
	World
	record orchestrator.NameRecord
}

// Exercise runs the suite on one world; each test has a name and an address of its own.
func Exercise(t *testing.T, w World) {
	for n, tt := range []struct {
		name string
		run  func(*bundle)
	}{
		{"life cycle", lifeCycle},
		{"nothing there", nothingThere},
		{"a foreign name stays", foreignName},
		{"a foreign pointer stays", foreignPointer},
		{"another machine's name stays", anothersName},
		{"half of it is completed", half},
		{"half of it is removed", halfRemoved},
		{"without a reverse zone", forwardOnly},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + n)})
			tt.run(&bundle{t, w, orchestrator.NameRecord{
				Pool: w.Pool, Zone: w.Zone, Name: fmt.Sprintf("web-%d.%s", n, w.Zone), Address: address,
				ReverseZone: w.ReverseZone, Pointer: fmt.Sprintf("%d.%s", 10+n, w.ReverseZone),
			}})
		})
	}
}

func (b *bundle) ensure(machine string, r orchestrator.NameRecord) {
	b.Helper()
	if err := b.Names.EnsureName(b.Context(), machine, r); err != nil {
		b.Fatalf("EnsureName: %v", err)
	}
}

func (b *bundle) refused(machine string) {
	b.Helper()
	if err := b.Names.EnsureName(b.Context(), machine, b.record); orchestrator.KindOf(err) != orchestrator.Permanent {
		b.Errorf("EnsureName over what is somebody else's: %v", err)
	}
}

func (b *bundle) remove(machine string) {
	b.Helper()
	if err := b.Names.RemoveName(b.Context(), machine, b.record); err != nil {
		b.Fatalf("RemoveName: %v", err)
	}
}

func (b *bundle) observed(machine string, want orchestrator.NameState) {
	b.Helper()
	got, err := b.Names.ObserveName(b.Context(), machine, b.record)
	if err != nil || got != want {
		b.Errorf("ObserveName: %+v, %v; want %+v", got, err, want)
	}
}

func (b *bundle) holds(forward, pointer string) {
	b.Helper()
	if got := b.Holds(b.T, b.record.Name); got != forward {
		b.Errorf("%s holds %q, want %q", b.record.Name, got, forward)
	}
	if got := b.Holds(b.T, b.record.Pointer); got != pointer {
		b.Errorf("%s holds %q, want %q", b.record.Pointer, got, pointer)
	}
}

var (
	whole = orchestrator.NameState{Whole: true, Left: true}
	part  = orchestrator.NameState{Left: true}
	none  = orchestrator.NameState{}
)

func lifeCycle(b *bundle) {
	for range 2 {
		b.ensure(machine, b.record)
		b.observed(machine, whole)
		b.observed(another, none)
		b.holds(b.record.Address.String(), b.record.Name)
	}
	for range 2 {
		b.remove(machine)
		b.observed(machine, none)
		b.holds("", "")
	}
	b.ensure(another, b.record) // the name is free again
	b.observed(another, whole)
}

func nothingThere(b *bundle) {
	b.observed(machine, none)
	b.remove(machine)
}

func foreignName(b *bundle) {
	b.Put(b.T, b.record.Name, theirs)
	b.refused(machine)
	b.observed(machine, none)
	b.remove(machine)
	b.holds(theirs, "")

	b.Put(b.T, b.record.Name, b.record.Address.String()) // the very same, but not ours
	b.refused(machine)
	b.remove(machine)
	b.holds(b.record.Address.String(), "")

	b.Put(b.T, b.record.Name, "")
	b.ensure(machine, b.record)
	b.observed(machine, whole)
}

func foreignPointer(b *bundle) {
	b.Put(b.T, b.record.Pointer, "static-44.example.org")
	b.refused(machine)
	b.observed(machine, part)
	b.remove(machine)
	b.observed(machine, none)
	b.holds("", "static-44.example.org")
}

func anothersName(b *bundle) {
	b.ensure(another, b.record)
	b.refused(machine)
	b.remove(machine)
	b.observed(another, whole)
	b.holds(b.record.Address.String(), b.record.Name)
}

// half is what a worker leaves that dies between the two.
func half(b *bundle) {
	first := b.record
	first.Pointer, first.ReverseZone = "", ""
	b.ensure(machine, first)
	b.observed(machine, part)
	b.ensure(machine, b.record)
	b.observed(machine, whole)
}

func halfRemoved(b *bundle) {
	first := b.record
	first.Pointer, first.ReverseZone = "", ""
	b.ensure(machine, first)
	b.remove(machine)
	b.observed(machine, none)
	b.holds("", "")
}

func forwardOnly(b *bundle) {
	pointer := b.record.Pointer
	b.record.Pointer, b.record.ReverseZone = "", ""
	b.ensure(machine, b.record)
	b.observed(machine, whole)
	if got := b.Holds(b.T, pointer); got != "" {
		b.Errorf("a pointer to %s", got)
	}
	b.remove(machine)
	b.observed(machine, none)
}
