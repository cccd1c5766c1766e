// Package orchestratortest has an in-memory world that implements what the steps ask of ours, and a harness that breaks every row of a
// process table in every way that it can break, on a real store. Nothing here has a clock, a goroutine or dice of its own: the same seed
// gives the same history.
package orchestratortest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"slipway/orchestrator"
)

// World is one site's hypervisors, guests and appliances. It implements orchestrator.Hypervisor, Installer, Names and Monitoring; Prober
// and Vault are beside it. It moves on only when Advance is called. Not safe for concurrent use.
type World struct {
	// Interrupt is called at every point that a call passes. What it returns is the call's answer: at Before nothing has happened, at
	// After everything has and the true answer is lost. It may panic with a Crash.
	Interrupt func(Point) error
	// Instant worlds need no time: tasks end when they begin and guests are up when they start.
	Instant bool
	// ServedElsewhere worlds have networks whose addresses others give out: each guest gets the right one.
	ServedElsewhere bool
	// FailJobs is how many post-install jobs end badly before one ends well.
	FailJobs int
	// JobExit is what they end with; 0 is 100, which may be better the next time.
	JobExit int
	// Leaky firewalls drop nothing.
	Leaky bool
	// Deaf guests have nothing that listens.
	Deaf bool
	// Culprit names entries that break their appliance's file, and the line that the tool says; "" is a good one.
	Culprit func(orchestrator.Entry) string

	// Service gives out the addresses of the pools that say so.
	Service *Service

	inventory map[string]orchestrator.Inventory
	dice      *rand.Rand
	source    *rand.PCG // of the dice
	rolled    bool
	ids       int
	calls     map[string]int
	vms       []*vm
	disks     []*disk
	tasks     map[string]*task
	live      map[string]map[string]json.RawMessage // group → machine → what the appliances carry

	dns       map[string]entry
	monitored map[string]orchestrator.MonitoredHost

	late     []func() // requests that arrive after their caller has given up
	arriving bool     // while they do

	// Effects counts what became real: "clone", "start", "stop", "destroy", "job", "name", "host".
	Effects map[string]int
	// Violations are things that must never be: two machines with one MAC, a second act while one is under way.
	Violations []string
}

type vm struct {
	uuid, name, machine string
	run                 string
	attempt             int
	tagged, template    bool
	late                bool // its clone's request came late
	power, host         string
	busy                string // the operation under way
	task                string // a start's or stop's
	memory              int64
	vcpus               int
	mac, network        string
	address             netip.Addr // what the spec said
	own                 netip.Addr // that it has whatever we give it
	stranger            bool       // somebody else made it
	disks               []string
	up                  int // how long it has been running
	guest               guest
}

type guest struct {
	jobs     map[string]*job
	identity string
	hostKey  string
	left     bool // the installer has taken its way in out of it
	door     bool // and left the maintainer's
	hostname string
	keys     []string // the customer's
}

type job struct {
	left int
	exit int
	lost bool
	key  string

	hostname string
	keys     []string
}

type disk struct {
	uuid, pool string
	gib        int64
}

type task struct {
	left   int
	err    error
	end    func()
	clones bool // it copies a template
}

// NewWorld makes an empty world of these pools.
func NewWorld(seed uint64, pools ...orchestrator.Inventory) *World {
	source := rand.NewPCG(seed, 1)
	w := &World{
		inventory: map[string]orchestrator.Inventory{}, source: source, dice: rand.New(source), calls: map[string]int{}, tasks: map[string]*task{},
		live: map[string]map[string]json.RawMessage{}, Effects: map[string]int{},
		dns: map[string]entry{}, monitored: map[string]orchestrator.MonitoredHost{},
	}
	for _, p := range pools {
		w.inventory[p.Pool] = p
	}
	w.Service = &Service{World: w, estate: Estate(), kept: map[string]map[string]orchestrator.Reservation{}}
	return w
}

// enter counts a call and passes its first point.
func (w *World) enter(call string) (Point, error) {
	w.calls[call]++
	p := Point{Call: call, Nth: w.calls[call], Moment: Before}
	return p, w.pass(p, Before)
}

func (w *World) pass(p Point, m Moment) error {
	if w.Interrupt == nil {
		return nil
	}
	p.Moment = m
	return w.Interrupt(p)
}

// forgetCalls makes the points of what follows count from 1.
func (w *World) forgetCalls() { w.calls = map[string]int{} }

func (w *World) id() string {
	w.ids++
	return fmt.Sprintf("10000000-0000-4000-8000-%012d", w.ids)
}

// last is how long something takes: 2 to n+1 rounds, so that it can be met halfway; 0 in an instant world.
func (w *World) last(n int) int {
	if w.Instant {
		return 0
	}
	w.rolled = true
	return 2 + w.dice.IntN(n)
}

func (w *World) violate(format string, args ...any) {
	w.Violations = append(w.Violations, fmt.Sprintf(format, args...))
}

// begin starts a task.
func (w *World) begin(end func()) string {
	ref := "OpaqueRef:" + w.id()
	t := &task{left: w.last(3), end: end}
	w.tasks[ref] = t
	if t.left == 0 {
		t.end()
	}
	return ref
}

// ErrLate as the answer of a point Before makes StartClone, StartMachine and StopMachine happen one round later, unknown to the caller.
var ErrLate = orchestrator.Errorf("world", orchestrator.Unknown, "the connection was lost before the request arrived")

// lost keeps a request that comes late after all.
func (w *World) lost(err error, request func()) {
	if err == ErrLate {
		w.late = append(w.late, request)
	}
}

// Advance lets one round of time go by: late requests arrive, tasks, boots and jobs get on.
func (w *World) Advance() {
	late, interrupt := w.late, w.Interrupt
	w.late, w.Interrupt = nil, nil
	w.arriving = true
	for _, request := range late {
		request()
	}
	w.arriving = false
	w.Interrupt = interrupt
	refs := make([]string, 0, len(w.tasks))
	for ref := range w.tasks {
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	for _, ref := range refs {
		if t := w.tasks[ref]; t.left > 0 {
			if t.left--; t.left == 0 {
				t.end()
			}
		}
	}
	for _, v := range w.vms {
		if v.power != "running" {
			continue
		}
		v.up++
		for _, j := range v.guest.jobs {
			if j.left > 0 && !j.lost {
				j.left--
				v.finish(j)
			}
		}
	}
}

// finish gives the guest an identity of its own when its job is at its end.
func (v *vm) finish(j *job) {
	if j.left == 0 && j.exit == 0 {
		v.guest.identity, v.guest.hostKey = "identity-of-"+v.uuid, j.key
		v.guest.hostname, v.guest.keys = j.hostname, j.keys
	}
}

func (w *World) find(uuid string) *vm {
	for _, v := range w.vms {
		if v.uuid == uuid {
			return v
		}
	}
	return nil
}

func (w *World) findDisk(uuid string) *disk {
	for _, d := range w.disks {
		if d.uuid == uuid {
			return d
		}
	}
	return nil
}

// of are the machine's VMs, tagged and oldest first.
func (w *World) of(machine string) []*vm {
	var found []*vm
	for _, v := range w.vms {
		if v.machine == machine {
			found = append(found, v)
		}
	}
	slices.SortStableFunc(found, func(a, b *vm) int {
		switch {
		case a.tagged == b.tagged:
			return 0
		case a.tagged:
			return -1
		default:
			return 1
		}
	})
	return found
}

func (w *World) destroy(v *vm) {
	w.vms = slices.DeleteFunc(w.vms, func(o *vm) bool { return o == v })
}

func (w *World) destroyDisk(uuid string) {
	for _, v := range w.vms {
		if slices.Contains(v.disks, uuid) {
			return
		}
	}
	w.disks = slices.DeleteFunc(w.disks, func(d *disk) bool { return d.uuid == uuid })
}

// Pending is how many tasks are under way.
func (w *World) Pending() int {
	n := 0
	for _, t := range w.tasks {
		if t.left > 0 {
			n++
		}
	}
	return n
}

// Describe lists everything that exists, one thing a line, with the names that chance gives left out: equal worlds have equal lines.
func (w *World) Describe() []string {
	var lines []string
	attached := map[string]bool{}
	for _, v := range w.vms {
		var ended []string
		for _, j := range v.guest.jobs {
			ended = append(ended, fmt.Sprintf("left %d exit %d lost %t", j.left, j.exit, j.lost))
		}
		slices.Sort(ended)
		var sizes []int64
		for _, id := range v.disks {
			attached[id] = true
			if d := w.findDisk(id); d != nil {
				sizes = append(sizes, d.gib)
			}
		}
		lines = append(lines, fmt.Sprintf("vm %q machine %s tagged %t template %t %s on %s busy %q %d MiB %d vcpus mac %s network %s disks %v jobs %v identity %t key %q left %t hostname %q keys %q",
			v.name, v.machine, v.tagged, v.template, v.power, v.host, v.busy, v.memory, v.vcpus, v.mac, v.network, sizes, ended, v.guest.identity != "", v.guest.hostKey, v.guest.left, v.guest.hostname, v.guest.keys))
	}
	for _, d := range w.disks {
		if !attached[d.uuid] {
			lines = append(lines, "stray disk")
		}
	}
	for group, entries := range w.live {
		for machine, body := range entries {
			lines = append(lines, fmt.Sprintf("live in %s: %s %s", group, machine, w.withoutUUIDs(string(body))))
		}
	}
	if n := w.Pending(); n > 0 {
		lines = append(lines, fmt.Sprintf("%d tasks under way", n))
	}
	lines = append(lines, w.describeRegistry()...)
	for _, v := range w.Violations {
		lines = append(lines, "violation: "+v)
	}
	slices.Sort(lines)
	return lines
}

func (w *World) withoutUUIDs(s string) string {
	for _, v := range w.vms {
		s = strings.ReplaceAll(s, v.uuid, "(its VM)")
	}
	return s
}
