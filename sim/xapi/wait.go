package xapi

import (
	"errors"
	"math/rand/v2"
	"time"
)

var errStopped = errors.New("the server is stopping")

// Hold makes the named operation ("VM.start", "VM.clone") stop in its middle: the object shows it in current_operations, tasks stay
// pending, conflicting calls wait. The returned function lets it go on; it may be called more than once.
func (s *Server) Hold(method string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.holds[method] = gate
	var once bool
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if once {
			return
		}
		once = true
		if s.holds[method] == gate {
			delete(s.holds, method)
		}
		close(gate)
	}
}

// Held counts the calls that stand at a Hold.
func (s *Server) Held(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holding[method]
}

// SetDelay makes the named operation take that long on every object it works on, whatever the latency: "VM.start", or for each disk
// "VDI.clone", "VDI.resize" and "VDI.copying" (a fifth of a copy). Zero takes it back.
func (s *Server) SetDelay(method string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d <= 0 {
		delete(s.delays, method)
		return
	}
	s.delays[method] = d
}

// pause is where an operation takes its time: at a Hold, or for d when the latency is real. The lock is held before and after.
func (c *call) pause(d time.Duration) error { return c.pauseAs(c.msg.full, d) }

// pauseAs is pause for a part of an operation that has a delay of its own, such as the clone of one disk.
func (c *call) pauseAs(part string, d time.Duration) error {
	s, name := c.s, c.msg.full
	gate := s.holds[name]
	fixed, isSet := s.delays[part]
	switch {
	case isSet:
		d = fixed
	case s.cfg.Latency == Real && d > 0:
		d = d/2 + rand.N(d)
	default:
		d = 0
	}
	if gate == nil && d <= 0 {
		return nil
	}
	s.holding[name]++
	s.unlock()
	if d > 0 {
		sleep(c.ctx, d)
	}
	if gate != nil {
		select {
		case <-gate:
		case <-c.ctx.Done():
		}
	}
	s.mu.Lock()
	s.holding[name]--
	if c.ctx.Err() != nil {
		return errStopped
	}
	return nil
}

// Waiting calls look again when an operation on a VM ends; on storage objects they back off 1 to 20 s at random, as xapi does.
const (
	backoffLeast = time.Second
	backoffMost  = 20 * time.Second
	waitLongest  = 2 * time.Hour
)

// await gives the lock away until some operation ends (or the back-off is over).
func (c *call) await(o *object) error {
	s := c.s
	changed := s.changed
	s.unlock()
	if s.cfg.Latency == Real && o.class.name != "VM" {
		sleep(c.ctx, backoffLeast+rand.N(backoffMost-backoffLeast))
	} else {
		t := time.NewTimer(waitLongest)
		select {
		case <-changed:
		case <-c.ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	s.mu.Lock()
	if c.ctx.Err() != nil {
		return errStopped
	}
	return nil
}

// begin enters an operation on an object, after check agrees and no conflicting operation is under way; until then it waits. The server
// waits, not the client: OTHER_OPERATION_IN_PROGRESS is not seen. end leaves it again.
func (c *call) begin(o *object, op string, check func() error) error {
	s := c.s
	for deadline := s.now().Add(waitLongest); ; {
		if s.db.objs[o.ref] != o {
			return fail("HANDLE_INVALID", o.class.name, o.ref)
		}
		if check != nil {
			if err := check(); err != nil {
				return err
			}
		}
		if !conflicts(o, op) {
			break
		}
		if s.now().After(deadline) {
			return fail("OTHER_OPERATION_IN_PROGRESS", o.class.name, o.ref)
		}
		if c.msg.full != "VM.set_VCPUs_max" { // what waits is seen as a pending task, this one call excepted
			c.ensureTask()
		}
		if err := c.await(o); err != nil {
			return err
		}
	}
	s.db.set(o, "current_operations", withKey(o.dict("current_operations"), c.ensureTask().ref, op))
	s.refresh(o)
	return nil
}

func (c *call) end(o *object) {
	s := c.s
	if s.db.objs[o.ref] == o && c.task != nil {
		s.db.set(o, "current_operations", withoutKey(o.dict("current_operations"), c.task.ref))
		s.refresh(o)
	}
	s.ended()
}

// shared are VM operations that may run beside each other.
var shared = map[string]bool{"clone": true, "copy": true, "export": true}

func conflicts(o *object, op string) bool {
	for _, v := range o.dict("current_operations") {
		cur := v.(string)
		switch o.class.name {
		case "VM":
			if shared[cur] && shared[op] || op == "hard_shutdown" && (cur == "clean_shutdown" || cur == "clean_reboot") {
				continue
			}
		case "SR":
			if cur != "vdi_resize" && op != "vdi_resize" {
				continue
			}
		}
		return true
	}
	return false
}
