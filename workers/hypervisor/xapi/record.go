package xapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Keys of other_config. Template authors set keyImage; the rest is ours.
const (
	keyImage   = "slipway_image"   // on a template: the image that it is
	keyMachine = "slipway_machine" // on a VM or VDI: the machine that it belongs to
	keyRun     = "slipway_run"     // on a VM: the run and attempt that cloned it
	keyAttempt = "slipway_attempt"
	keyCard    = "slipway_card" // on a VM: orchestrator.Card
	// keySelf is the object's own uuid, written with the tag. xapi copies other_config into clones, snapshots and exports: a tag
	// beside another uuid is somebody's copy of our machine, and not ours to adopt or remove.
	keySelf = "slipway_self"

	// What xapi keeps for VM.provision. A provision that succeeds removes them, so that one that is no template and still has one
	// failed on the way.
	keyDisks       = "disks"
	keyPostInstall = "postinstall"
)

type vmRecord struct {
	UUID          string            `json:"uuid"`
	Name          string            `json:"name_label"`
	Power         string            `json:"power_state"`
	Template      bool              `json:"is_a_template"`
	Snapshot      bool              `json:"is_a_snapshot"`
	ControlDomain bool              `json:"is_control_domain"`
	OtherConfig   map[string]string `json:"other_config"`
	Operations    map[string]string `json:"current_operations"` // task → "clone", "start", …
	VBDs          []Ref             `json:"VBDs"`
	VIFs          []Ref             `json:"VIFs"`
	Consoles      []Ref             `json:"consoles"`
	Host          Ref               `json:"resident_on"`
	GuestMetrics  Ref               `json:"guest_metrics"`
	StaticMin     int64             `json:"memory_static_min"`
	StaticMax     int64             `json:"memory_static_max"`
	DynamicMin    int64             `json:"memory_dynamic_min"`
	DynamicMax    int64             `json:"memory_dynamic_max"`
	Overhead      int64             `json:"memory_overhead"`
	VCPUsMax      int64             `json:"VCPUs_max"`
	VCPUsStart    int64             `json:"VCPUs_at_startup"`
}

type vbdRecord struct {
	VM         Ref    `json:"VM"`
	VDI        Ref    `json:"VDI"`
	Type       string `json:"type"`
	UserDevice string `json:"userdevice"`
}

type vdiRecord struct {
	UUID        string            `json:"uuid"`
	Name        string            `json:"name_label"`
	SR          Ref               `json:"SR"`
	Size        int64             `json:"virtual_size"`
	Used        int64             `json:"physical_utilisation"`
	Snapshot    bool              `json:"is_a_snapshot"`
	VBDs        []Ref             `json:"VBDs"`
	OtherConfig map[string]string `json:"other_config"`
	SMConfig    map[string]string `json:"sm_config"`
}

type vifRecord struct {
	Device      string   `json:"device"`
	MAC         string   `json:"MAC"`
	Network     Ref      `json:"network"`
	VM          Ref      `json:"VM"`
	LockingMode string   `json:"locking_mode"`
	IPv4Allowed []string `json:"ipv4_allowed"`
}

type networkRecord struct {
	UUID        string            `json:"uuid"`
	MTU         int64             `json:"MTU"`
	OtherConfig map[string]string `json:"other_config"`
}

// tag is what we wrote on a VM.
type tag struct {
	machine, run string
	attempt      int
}

// tag is the VM's own; one that was copied along with other_config is none.
func (v vmRecord) tag() (tag, bool) {
	if v.OtherConfig[keyMachine] == "" || v.OtherConfig[keySelf] != v.UUID {
		return tag{}, false
	}
	attempt, err := strconv.Atoi(v.OtherConfig[keyAttempt])
	if err != nil {
		attempt = 0 // written by somebody else's hand: the oldest there can be
	}
	return tag{v.OtherConfig[keyMachine], v.OtherConfig[keyRun], attempt}, true
}

// cloneName is the name that a clone has from its first moment: xapi creates it with the name, so that a clone whose answer was lost, or
// whose worker died before the tag, is still known. It is longer than any name that an order may ask for.
func cloneName(machine, run string, attempt int) string {
	return fmt.Sprintf("slipway-%s-%s-%d", machine, run, attempt)
}

// nameTag reads a clone's name.
func nameTag(name, machine string) (tag, bool) {
	rest, ok := strings.CutPrefix(name, "slipway-"+machine+"-")
	cut := strings.LastIndexByte(rest, '-')
	if !ok || cut <= 0 {
		return tag{}, false
	}
	attempt, err := strconv.Atoi(rest[cut+1:])
	if err != nil || attempt < 1 {
		return tag{}, false
	}
	return tag{machine, rest[:cut], attempt}, true
}

const uuidLen = 36 // characters

// isClone reports whether a VM is, by its name, a clone of ours that is not finished: no template of anybody's.
func (v vmRecord) isClone() bool {
	rest, ok := strings.CutPrefix(v.Name, "slipway-")
	if !ok || len(rest) < uuidLen {
		return false
	}
	_, ok = nameTag(v.Name, rest[:uuidLen])
	return ok
}

// belongsTo tells whether the VM is this machine's: by its tag, or untagged by the name of a clone.
func (v vmRecord) belongsTo(machine string) (t tag, tagged, ok bool) {
	if v.Snapshot || v.ControlDomain {
		return tag{}, false, false
	}
	if t, ok := v.tag(); ok {
		return t, true, t.machine == machine
	}
	t, ok = nameTag(v.Name, machine)
	return t, false, ok
}

// busy names an operation in progress and its task.
func (v vmRecord) busy(operations ...string) (task Ref, operation string) {
	for _, t := range slices.Sorted(maps.Keys(v.Operations)) {
		if len(operations) == 0 || slices.Contains(operations, v.Operations[t]) {
			if !Ref(t).valid() {
				t = "" // it is busy all the same, with what nobody can wait for
			}
			return Ref(t), v.Operations[t]
		}
	}
	return "", ""
}

// powerOperations are those after which power_state may be another one: vm_operations of the XenAPI's class VM.
func powerOperations() []string {
	return []string{
		"start", "start_on", "unpause", "resume", "resume_on", "clean_shutdown", "hard_shutdown", "shutdown", "clean_reboot", "hard_reboot", "pause", "suspend",
	}
}

// vm reads a VM by uuid; found is false when it is gone.
func (p *pool) vm(ctx context.Context, uuid string) (ref Ref, rec vmRecord, found bool, err error) {
	if !isUUID(uuid) {
		return "", vmRecord{}, false, orchestrator.Errorf("xapi", orchestrator.Permanent, "%q is no VM uuid", printable(uuid))
	}
	err = p.client.Call(ctx, "VM.get_by_uuid", &ref, uuid)
	if err == nil {
		err = p.client.Call(ctx, "VM.get_record", &rec, ref)
	}
	if HasCode(err, codeUUIDInvalid, codeHandleInvalid) {
		return "", vmRecord{}, false, nil
	}
	return ref, rec, err == nil, err
}

// scanner shares full reads of a pool's VMs. The records of 7,000 VMs are 35 MB: of those who ask while a read is running, one makes the
// next and all take its answer, which is never older than the question. Between two reads the pool rests as long as the last one took.
type scanner struct {
	mu   sync.Mutex
	next *scan
	gate sync.Mutex // one read at a time
	rest time.Time  // no read before; guarded by gate
	work sync.WaitGroup
}

// longestRest bounds the rest between two reads.
const longestRest = 2 * time.Second

type scan struct {
	done chan struct{}
	vms  records[vmRecord]
	err  error
}

// vms is every VM, template and snapshot of the pool. The map is shared: read only.
func (p *pool) vms(ctx context.Context) (records[vmRecord], error) {
	s := &p.scans
	s.mu.Lock()
	mine := s.next
	if mine == nil {
		mine = &scan{done: make(chan struct{})}
		s.next = mine
		// The read belongs to all who wait for it, so it does not end with the first of them; Call's own deadline bounds it, and Close
		// waits for it.
		all := context.WithoutCancel(ctx)
		s.work.Go(func() {
			defer close(mine.done)
			s.gate.Lock()
			defer s.gate.Unlock()
			sleep(all, time.Until(s.rest))
			s.mu.Lock()
			s.next = nil
			s.mu.Unlock()
			began := time.Now()
			if mine.err = p.client.Call(all, "VM.get_all_records", &mine.vms); mine.err == nil {
				mine.err = wholeList(mine.vms)
			}
			s.rest = time.Now().Add(min(time.Since(began), longestRest))
		})
	}
	s.mu.Unlock()
	select {
	case <-mine.done:
		return mine.vms, mine.err
	case <-ctx.Done():
		return nil, orchestrator.E("xapi", orchestrator.Transient, fmt.Errorf("VM.get_all_records: %w", context.Cause(ctx)))
	}
}
