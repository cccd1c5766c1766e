package simulation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/workers/queue"
)

// delivery is an order on its way from the panel to a worker.
type delivery struct {
	order  Order
	number int
	copies int       // that were sent under other ids, after a refusal
	at     time.Time // when it comes next
	trips  int       // the newest plan of its coming; older ones are off
	with   *process  // the worker that has it in hand
	known  bool      // the panel has heard of it
	tries  int
}

func (d *delivery) id() string { return fmt.Sprintf("order-%d-%d", d.number, d.copies) }

// set plans when the message comes.
func (d *delivery) set(s *simulation, in time.Duration) {
	d.trips++
	trip := d.trips
	d.at = s.now.Add(in)
	s.in(in, "delivery "+d.id(), func() {
		if trip == d.trips {
			s.deliver(d)
		}
	})
}

func (d *delivery) ahead(s *simulation) bool { return d.at.After(s.now) && d.tries == 0 }

func (d *delivery) lose(s *simulation, _ Fault) bool {
	if !d.ahead(s) {
		return false
	}
	d.trips++ // it never comes; the panel's patience brings the next
	return true
}

func (d *delivery) repeat(s *simulation, f Fault) bool {
	if d.tries == 0 {
		return false
	}
	s.in(time.Duration(f.For), "delivery "+d.id()+" again", func() { s.hand(d, func(queue.Verdict) {}) })
	return true
}

func (d *delivery) delay(s *simulation, f Fault) bool {
	if !d.ahead(s) {
		return false
	}
	d.set(s, d.at.Sub(s.now)+time.Duration(f.For))
	return true
}

func (d *delivery) overtake(s *simulation, _ Fault) bool {
	for _, next := range s.deliveries {
		if next.number > d.number && d.ahead(s) && next.ahead(s) {
			first, second := d.at.Sub(s.now), next.at.Sub(s.now)
			d.set(s, second)
			next.set(s, first)
			return true
		}
	}
	return false
}

// patience is how long the panel waits for an answer before it sends an order again under the same id.
const patience = 2 * time.Minute

func (s *simulation) deliver(d *delivery) {
	d.tries++
	s.hand(d, func(v queue.Verdict) {
		if delay, again := v.Delay(); again {
			d.set(s, max(delay, 100*time.Millisecond))
		}
	})
}

// hand gives a message to one of the workers that move.
func (s *simulation) hand(d *delivery, then func(queue.Verdict)) {
	var awake []*process
	for _, p := range s.processes {
		if !p.frozen.After(s.now) {
			awake = append(awake, p)
		}
	}
	if len(awake) == 0 {
		s.in(time.Second, "delivery "+d.id()+" waits for a worker", func() { s.hand(d, then) })
		return
	}
	p := awake[s.roll("consumer", len(awake))]
	d.with = p
	body := s.message(d)
	p.spawn(context.Background(), "takes "+d.id(), func(r *routine) {
		verdict := p.intake.Handle(r.ctx, queue.Delivery{Body: body, ContentType: "application/cloudevents+json"})
		s.trace("%s takes %s: %s", p.name, d.id(), verdict)
		if d.with == p {
			d.with = nil
		}
		then(verdict)
	})
}

// message is the order as a CloudEvent. An order of a further process says here what else it needs.
func (s *simulation) message(d *delivery) []byte {
	data := map[string]any{"tenant": d.order.Tenant, "name": d.order.Name}
	switch d.order.Process {
	case "reconfigure":
		data["firewall"] = []any{map[string]any{"protocol": "tcp", "source": "0.0.0.0/0", "ports": []string{"22", "443"}}}
		data["hostname"] = fmt.Sprintf("host-%d", d.number)
		data["new_console_password"] = true
	case "suspend":
		data["power"] = []string{"stop", "keep"}[d.number%2]
	case "install":
		data["image"] = "debian-12"
		data["pool"] = s.estate.Pools[0].ID
		data["plan"] = map[string]any{"vcpus": 2, "memory_mib": 1024, "disk_gib": 10}
		data["firewall"] = []any{map[string]any{"protocol": "tcp", "source": "0.0.0.0/0", "ports": []string{"22"}}}
		data["ssh_keys"] = []string{publicKey}
	}
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": d.id(), "source": "panel", "type": "slipway.order." + d.order.Process,
		"time": began.Format(time.RFC3339), "datacontenttype": "application/json", "data": data,
	})
	if err != nil {
		s.fail("message", "%v", err)
	}
	return body
}

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJkrgSDuILWCdnwJAzWrp7XWaNd/6MwcMKgh+iwFcfyn someone"

// panel is what hears the events.
type panel struct {
	heard  map[string][]orchestrator.Event // by machine, first copies in their order
	orders map[string]string               // by order id: the type of the first answer
}

// publish implements outbox's Publish.
func (s *simulation) publish(_ context.Context, events []orchestrator.Event) error {
	c := call{class: brokerCall, name: "publish"}
	if err := s.enter(c); err != nil {
		return err
	}
	for _, e := range events {
		s.hear(e)
	}
	return s.leave(c)
}

// hear is the panel's end of the broker. Events of a machine come in the order of their seq; copies may come again, and say the same.
func (s *simulation) hear(e orchestrator.Event) {
	if e.Machine != "" {
		before := s.panel.heard[e.Machine]
		switch n := int64(len(before)); {
		case e.Seq == n+1:
			s.panel.heard[e.Machine] = append(before, e)
			if !s.isCommitted(e) {
				s.violated("events", "the panel hears of %s #%d of machine %s, which nobody has committed", e.Type, e.Seq, e.Machine)
			}
		case e.Seq < 1 || e.Seq > n+1:
			s.violated("events", "the panel hears #%d of machine %s after #%d", e.Seq, e.Machine, n)
		case before[e.Seq-1].Type != e.Type || string(before[e.Seq-1].Data) != string(e.Data):
			s.violated("events", "the panel hears two things as #%d of machine %s: %s and %s", e.Seq, e.Machine, before[e.Seq-1].Type, e.Type)
		}
	}
	switch e.Type {
	case orchestrator.EventAccepted, orchestrator.EventRefused, orchestrator.EventConflict:
		if _, ok := s.panel.orders[e.Order.ID]; !ok {
			s.panel.orders[e.Order.ID] = e.Type
			s.trace("the panel hears of %s: %s", e.Order.ID, e.Type)
			s.answered(e)
		}
	}
}

// answered is what the panel makes of the first answer: an uninstall that came too early is sent again as another order.
func (s *simulation) answered(e orchestrator.Event) {
	for _, d := range s.deliveries {
		if d.id() != e.Order.ID {
			continue
		}
		d.known = true
		if e.Type == orchestrator.EventRefused && d.order.Process != "install" && d.copies < 3 {
			d.copies++
			d.known = false
			d.set(s, 40*time.Second)
		}
	}
}

// remind sends orders again of which the panel has heard nothing for long, and lets every worker look at the outbox.
func (s *simulation) remind() {
	if s.unpublished() {
		for _, p := range s.processes {
			p.publishSoon(s.between("outbox", 10*time.Millisecond, 500*time.Millisecond))
		}
	}
	for _, d := range s.deliveries {
		if !d.known && d.with == nil && s.now.Sub(d.at) > patience {
			d.set(s, 0)
		}
	}
	s.in(30*time.Second, "the panel looks", s.remind)
}

// committed notes what a commit made true. It is called when the store has taken it, whether or not its caller hears of that.
func (s *simulation) committed(c orchestrator.Commit, result orchestrator.CommitResult) {
	if has, want := s.current.fence, s.fences[c.Run.ID]; has != want {
		s.violated("fence", "the store takes a commit for run %s from who has fence %d, its holder has %d", c.Run.ID, has, want)
	}
	for _, e := range c.Events {
		s.saved[e.Machine] = append(s.saved[e.Machine], e)
	}
	s.trace("commit %s %s %s %s fence %d attempt %d %q", c.Run.ID, c.Run.State, c.Run.Status, c.Run.Step, c.Run.Fence, c.Run.Attempt, c.Run.Reason)
	for _, change := range c.Changes {
		switch change := change.(type) {
		case orchestrator.PutEntry:
			s.touchGroup(change.Group)
		case orchestrator.DropEntry:
			s.touchGroup(change.Group)
		}
	}
	if c.Machine != nil || len(c.Changes) > 0 || !result.Placement.IsZero() {
		s.lookAtMachines()
	}
}

// isCommitted reports whether an event is one that a commit wrote. Those of intake are written by the store itself.
func (s *simulation) isCommitted(e orchestrator.Event) bool {
	switch e.Type {
	case orchestrator.EventAccepted, orchestrator.EventConflict, orchestrator.EventRefused:
		return true
	}
	return slices.ContainsFunc(s.saved[e.Machine], func(o orchestrator.Event) bool { return o.Type == e.Type && string(o.Data) == string(e.Data) })
}

// touchGroup lets the controllers know, at their next look, that a group has changed.
func (s *simulation) touchGroup(id string) {
	s.behind[id] = true
	for _, p := range s.processes {
		p.apply(id, s.between("gather", 150*time.Millisecond, 450*time.Millisecond))
	}
}

// claimed notes who holds what.
func (s *simulation) claimed(claims []orchestrator.Claim) {
	for _, c := range claims {
		if c.Run.Fence <= s.fences[c.Run.ID] {
			s.violated("fence", "run %s is claimed under fence %d after %d", c.Run.ID, c.Run.Fence, s.fences[c.Run.ID])
		}
		s.fences[c.Run.ID] = c.Run.Fence
		minute := fmt.Sprint(c.Run.ID, " ", int(s.now.Sub(began)/time.Minute))
		if s.claims[minute]++; s.claims[minute] == maxClaims {
			s.violated("busy", "run %s is taken %d times within a minute, at %s in %s", c.Run.ID, maxClaims, c.Run.Step, c.Run.State)
		}
	}
}

// maxClaims is more often than a run is ever taken in a minute that waits for something with a pause of a second.
const maxClaims = 100

// intervene is an operator who does something to a run that is at work; false when there is none.
func (s *simulation) intervene(f Fault) bool {
	runs, err := s.store.Runs(context.Background(), orchestrator.RunFilter{})
	if err != nil {
		s.fail("store", "%v", err)
		return true
	}
	runs = slices.DeleteFunc(runs, func(r orchestrator.RunView) bool { return !r.Status.Active() })
	slices.SortFunc(runs, func(a, b orchestrator.RunView) int { return compare(a.ID, b.ID) })
	if len(runs) == 0 {
		return false
	}
	run := runs[f.On%len(runs)]
	verb := verbs[s.roll("verb", len(verbs))]
	step := run.Step
	if process := s.table(run.Process); process != nil {
		if targets := orchestrator.Targets(run.Run, process, verb); len(targets) > 0 {
			step = targets[s.roll("target", len(targets))]
		} else if verb != orchestrator.VerbCancel && verb != orchestrator.VerbRetry {
			return false
		}
	}
	_, err = s.store.Intervene(context.Background(), orchestrator.Intervention{
		Run: run.ID, Verb: verb, Step: step, Actor: "1000:op", Reason: "the simulation says so", Now: s.now,
	})
	s.changed()
	s.trace("the operator says %s %s to run %s: %v", verb, step, run.ID, err)
	return err == nil
}

// interrupt is called by the world at each point of each call.
func (s *simulation) interrupt(p orchestratortest.Point) error {
	c := call{class: guestCall, name: p.Call}
	if p.IsHypervisor() {
		c.class = hypervisorCall
	}
	switch p.Moment {
	case orchestratortest.Before:
		if err := s.enter(c); err != nil {
			return err
		}
		if p.IsEffect() {
			s.mustBeJournalled(p.Call)
		}
		return nil
	case orchestratortest.During:
		if s.current == nil {
			return nil
		}
		return s.struck(c, orchestratortest.During)
	default:
		return s.leave(c)
	}
}
