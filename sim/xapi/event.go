package xapi

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// waiter is a blocked event.from or event.next.
type waiter struct {
	wake   chan struct{}
	filter filter
}

func (w *waiter) wants(dirty map[*class]bool) bool {
	for c := range dirty {
		if w.filter.class(c) {
			return true
		}
	}
	return false
}

// filter says which objects an event call is about: whole classes (nil references) or single objects.
type filter struct {
	all     bool
	classes map[*class]map[string]bool
}

func (f filter) class(c *class) bool {
	_, ok := f.classes[c]
	return ok || f.all && evented(c)
}

func (f filter) object(c *class, ref string) bool {
	refs, ok := f.classes[c]
	return ok && (refs == nil || refs[ref]) || f.all && evented(c)
}

// evented: "*" does not cover sessions, and the event class has no rows.
func evented(c *class) bool { return c.name != "session" && c.name != "event" }

// parseFilter reads ["vm", "task", "VM/<ref>", "*"]. Classes are taken in any case, unknown ones ignored.
func (m *datamodel) parseFilter(names []any) filter {
	f := filter{classes: map[*class]map[string]bool{}}
	for _, v := range names {
		name, _ := v.(string)
		if name == "*" {
			f.all = true
			continue
		}
		name, ref, single := strings.Cut(name, "/")
		c := m.byLower[strings.ToLower(name)]
		if c == nil {
			continue
		}
		refs, whole := f.classes[c]
		switch {
		case !single:
			f.classes[c] = nil
		case !whole:
			f.classes[c] = map[string]bool{ref: true}
		case refs != nil:
			refs[ref] = true
		}
	}
	return f
}

type event struct {
	class      *class
	operation  string
	ref        string
	generation int64
	snapshot   *record
}

// changes collects what happened after a generation: additions, then modifications, then deletions, each object once.
func (db *database) changes(f filter, since int64) (events []event, last int64) {
	var mods, dels []event
	last = since
	for _, c := range db.model.classes {
		t := db.tables[c]
		if t.newest <= since || !f.class(c) {
			continue
		}
		for o := t.tail; o != nil && o.modified > since; o = o.prev {
			if !f.object(c, o.ref) {
				continue
			}
			last = max(last, o.modified)
			e := event{class: c, operation: "add", ref: o.ref, generation: o.modified, snapshot: o.snapshot()}
			if o.created > since {
				events = append(events, e)
			} else {
				e.operation = "mod"
				mods = append(mods, e)
			}
		}
		for i := len(t.gone) - 1; i >= 0 && t.gone[i].generation > since; i-- {
			d := t.gone[i]
			if !f.object(c, d.ref) {
				continue
			}
			last = max(last, d.generation)
			if d.created <= since { // what came and went in between was never seen
				dels = append(dels, event{class: c, operation: "del", ref: d.ref, generation: d.generation})
			}
		}
	}
	return append(append(events, mods...), dels...), last
}

func formatToken(generation int64) string { return fmt.Sprintf("%020d,%020d", generation, 0) }

func parseToken(token string) (int64, error) {
	if token == "" {
		return -1, nil
	}
	a, b, ok := strings.Cut(token, ",")
	n, err := strconv.ParseInt(a, 10, 64)
	_, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err != nil || err2 != nil {
		return 0, fail("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
	}
	return n, nil
}

func eventHandlers() map[string]handler {
	return map[string]handler{
		"event.from":           eventFrom,
		"event.next":           eventNext,
		"event.inject":         eventInject,
		"event.get_current_id": func(*call, []any) (any, error) { return int64(0), nil },
		"event.register": func(c *call, args []any) (any, error) {
			f := c.s.db.model.parseFilter(args[0].([]any))
			if c.session.subs == nil {
				c.session.subs, c.session.seen = map[*class]bool{}, c.s.db.generation
			}
			c.session.all = c.session.all || f.all
			for cl := range f.classes {
				c.session.subs[cl] = true
			}
			return nil, nil
		},
		"event.unregister": func(c *call, args []any) (any, error) {
			f := c.s.db.model.parseFilter(args[0].([]any))
			c.session.all = c.session.all && !f.all
			for cl := range f.classes {
				delete(c.session.subs, cl)
			}
			return nil, nil
		},
	}
}

// Times of xapi's event.from: it collects for about 50 ms after the first event, and an empty answer comes 0.55 s after the timeout.
const (
	eventBatch   = 50 * time.Millisecond
	eventOverrun = 550 * time.Millisecond
	eventLongest = time.Hour
)

func eventFrom(c *call, args []any) (any, error) {
	s := c.s
	f := s.db.model.parseFilter(args[0].([]any))
	since, err := parseToken(args[1].(string))
	if err != nil {
		return nil, err
	}
	timeout := min(max(0, time.Duration(args[2].(float64)*float64(time.Second))), eventLongest)
	if timeout > 0 && s.cfg.Latency == Real {
		timeout += eventOverrun
	}
	found, last, err := s.awaitEvents(c, f, since, timeout)
	if err != nil {
		return nil, err
	}
	list := make([]any, 0, len(found))
	for _, e := range found {
		o := ordered{
			{"id", strconv.FormatInt(e.generation, 10)}, {"timestamp", "0.0"}, {"class", strings.ToLower(e.class.name)},
			{"operation", e.operation}, {"ref", e.ref},
		}
		if e.snapshot != nil {
			o = append(o, pair{"snapshot", e.snapshot})
		}
		list = append(list, o)
	}
	return ordered{{"events", list}, {"valid_ref_counts", s.db.refCounts()}, {"token", formatToken(max(0, last))}}, nil
}

// awaitEvents blocks until something happened after since, the time is over, the session ends or the client is gone.
func (s *Server) awaitEvents(c *call, f filter, since int64, timeout time.Duration) ([]event, int64, error) {
	found, last := s.db.changes(f, since)
	if len(found) > 0 || timeout <= 0 {
		return found, last, nil
	}
	w := &waiter{wake: make(chan struct{}, 1), filter: f}
	s.waiters[w] = true
	defer delete(s.waiters, w)
	ctx, cancel := context.WithTimeout(c.request, timeout)
	defer cancel()
	for {
		s.unlock()
		var ended, over bool
		select {
		case <-w.wake:
			if s.cfg.Latency == Real {
				sleep(ctx, eventBatch)
			}
		case <-ctx.Done():
			over = true
		case <-s.base.Done():
			over = true
		case <-c.session.done:
			ended = true
		}
		s.mu.Lock()
		if ended || s.sessions[c.ref] != c.session {
			return nil, 0, fail("SESSION_INVALID", c.ref)
		}
		found, last = s.db.changes(f, since)
		if len(found) > 0 || over {
			return found, last, nil
		}
	}
}

// eventNext is the old interface (xvp speaks it): it blocks until a registered class changes.
func eventNext(c *call, _ []any) (any, error) {
	s := c.s
	f := filter{all: c.session.all, classes: map[*class]map[string]bool{}}
	for cl := range c.session.subs {
		f.classes[cl] = nil
	}
	found, last, err := s.awaitEvents(c, f, c.session.seen, eventLongest)
	if err != nil {
		return nil, err
	}
	c.session.seen = last
	list := make([]any, 0, len(found))
	for _, e := range found {
		o := ordered{
			{"id", e.generation}, {"timestamp", s.today()}, {"class", strings.ToLower(e.class.name)}, {"operation", e.operation},
			{"ref", e.ref}, {"obj_uuid", ""},
		}
		if e.snapshot != nil {
			o[5].val = e.snapshot.vals[e.class.byField["uuid"].index]
			o = append(o, pair{"snapshot", e.snapshot})
		}
		list = append(list, o)
	}
	return list, nil
}

func eventInject(c *call, args []any) (any, error) {
	name, ref := args[0].(string), args[1].(string)
	o := c.s.db.objs[ref]
	if o == nil || o.class.name != name {
		return nil, fail("HANDLE_INVALID", name, ref)
	}
	token := formatToken(c.s.db.generation)
	c.s.db.touch(o)
	return token, nil
}

// otherClasses are the classes of a real pool that are not simulated; event.from counts them too.
const otherClasses = "vdi_nbd_server_info user tunnel subject sr_stat secret role probe_result pool_update pool_patch network_sriov " +
	"host_patch host_crashdump host_cpu data_source crashdump blob auth vusb vtpm vm_appliance vmss vmpp vlan vgpu_type vgpu usb_group " +
	"sdn_controller repository pvs_site pvs_server pvs_proxy pvs_cache_storage pusb pif_metrics pgpu pci observer lvhd gpu_group feature " +
	"diagnostics dr_task cluster_host cluster certificate bond event"

func (db *database) refCounts() map[string]any {
	out := map[string]any{}
	for name := range strings.FieldsSeq(otherClasses) {
		out[name] = count(0)
	}
	for c, t := range db.tables {
		out[strings.ToLower(c.name)] = count(len(t.objs))
	}
	return out
}

// sleep waits, or less when the context ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
