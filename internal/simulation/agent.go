package simulation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/workers/appliance"
	"slipway/workers/appliance/apply"
)

// agent is one appliance: what `slipway agent apply` keeps there, without files. It implements appliance.Carrier.
type agent struct {
	s           *simulation
	group, name string
	down        time.Time // nobody reaches it until then

	fence   int64
	live    applied  // recorded as live
	files   contents // what lies in its places
	running contents // what its service has loaded
	changed bool     // its service runs with something else since it was looked at
	journal *applied // a swap that was interrupted
}

type applied struct {
	generation int64
	sum        string
	next, old  contents
}

// contents are entries by machine.
type contents = map[string]json.RawMessage

// fate is what becomes of one apply.
type fate string

const (
	killedBeforeSwap    fate = "killed before the swap"
	killedBeforeRestart fate = "killed before the restart"
	diskFull            fate = "disk full"
	restartFails        fate = "restart fails"
)

func agentFate(f fate) func(*simulation, Fault) error {
	return func(s *simulation, _ Fault) error {
		s.current.fate = f
		return nil
	}
}

// Apply implements appliance.Carrier.
func (a *agent) Apply(_ context.Context, r apply.Request) (apply.Answer, error) {
	c := call{class: agentCall, name: "Apply"}
	if err := a.s.enter(c); err != nil {
		return apply.Answer{}, err
	}
	if a.down.After(a.s.now) {
		return apply.Answer{}, orchestrator.Errorf("agent", orchestrator.Transient, "no route to host")
	}
	routine := a.s.current
	routine.fate, routine.lateBy = "", 0
	if !r.CheckOnly && r.Fence >= a.fence && r.SHA256 != a.live.sum {
		if err := a.s.struck(c, orchestratortest.During); err != nil {
			return apply.Answer{}, err
		}
	}
	if routine.lateBy > 0 {
		a.s.in(routine.lateBy, a.name+" late", func() {
			answer, _ := a.apply(r, "")
			a.s.trace("%s is asked late for generation %d under fence %d: %s, has %d", a.name, r.Generation, r.Fence, answer.Code, a.live.generation)
		})
		return apply.Answer{}, orchestrator.Errorf("agent", orchestrator.Unknown, "the connection was lost")
	}
	answer, dies := a.apply(r, routine.fate)
	a.s.trace("%s answers generation %d under fence %d: %s, has %d", a.name, r.Generation, r.Fence, answer.Code, a.live.generation)
	if dies {
		return apply.Answer{}, orchestrator.Errorf("agent", orchestrator.Unknown, "the connection was closed")
	}
	return answer, a.s.leave(c)
}

// apply is the agent's own: see workers/appliance/agent.
func (a *agent) apply(r apply.Request, f fate) (answer apply.Answer, dies bool) {
	defer func() { answer.Generation, answer.SHA256 = a.live.generation, a.live.sum }()
	if r.Fence < a.fence && !a.s.hooks.NoFence {
		return apply.Answer{Code: apply.Stale, Message: fmt.Sprintf("fence %d has been followed by %d", r.Fence, a.fence)}, false
	}
	if f == diskFull {
		return apply.Answer{Code: apply.Unsupported, Message: "no space left on device"}, false
	}
	before := a.fence
	a.fence = max(a.fence, r.Fence)
	if a.journal != nil {
		a.heal()
	}
	var next contents
	if err := json.Unmarshal([]byte(r.Files[0].Content), &next); err != nil {
		return apply.Answer{Code: apply.Refused, Message: err.Error()}, false
	}
	switch {
	case r.Generation < a.live.generation && !a.s.hooks.NoFence:
		return apply.Answer{Code: apply.Newer}, false
	case r.CheckOnly:
		return apply.Answer{Code: apply.Checked}, false
	case r.SHA256 == a.live.sum:
		a.live.generation = r.Generation
		return apply.Answer{Code: apply.Unchanged}, false
	case f == restartFails:
		return apply.Answer{Code: apply.Restored, Message: "the service did not start"}, false
	}
	a.journal = &applied{generation: r.Generation, sum: r.SHA256, next: next, old: a.files}
	if f == killedBeforeSwap {
		return apply.Answer{}, true
	}
	a.files = next
	if f == killedBeforeRestart {
		return apply.Answer{}, true
	}
	if r.Fence < before || r.Generation < a.live.generation {
		a.s.violated("stale", "%s lets a holder under fence %d with generation %d change it, after fence %d and generation %d", a.name, r.Fence, r.Generation, before, a.live.generation)
	}
	a.finish()
	return apply.Answer{Code: apply.Applied}, false
}

// heal finishes an interrupted swap whose files are in place, and undoes any other.
func (a *agent) heal() {
	if maps.EqualFunc(a.files, a.journal.next, sameText) {
		a.finish()
		return
	}
	a.files, a.journal = a.journal.old, nil
}

func (a *agent) finish() {
	a.running, a.changed = a.files, true
	a.live, a.journal = applied{generation: a.journal.generation, sum: a.journal.sum}, nil
	a.s.carry(a.group)
}

func sameText(a, b json.RawMessage) bool { return string(a) == string(b) }

// carry shows the world what a group's appliances do: a machine is served when any of them serves it.
func (s *simulation) carry(group string) {
	carried := contents{}
	for _, a := range s.agents {
		if a.group == group {
			maps.Copy(carried, a.running)
		}
	}
	s.world.Carry(group, carried)
}

// groups is the configuration of a worker's controller.
func (s *simulation) groups() []appliance.Group {
	var groups []appliance.Group
	for _, g := range orchestratortest.Groups() {
		group := appliance.Group{ID: g.ID, Unit: g.Unit, Render: render}
		for _, a := range s.agents {
			if a.group == g.ID {
				group.Members = append(group.Members, appliance.Member{Name: a.name, Carrier: a})
			}
		}
		groups = append(groups, group)
	}
	return groups
}

// render writes the entries as they are.
func render(texts []appliance.Text) (appliance.Rendering, map[string]string, error) {
	all := contents{}
	for _, t := range texts {
		all[t.Machine] = t.Body
	}
	body, err := json.Marshal(all)
	return appliance.Rendering{Files: []apply.File{{Name: "state", Content: string(body)}}}, nil, err
}

// lookAtGroup notes whether a group's appliances have anything to catch up on.
func (s *simulation) lookAtGroup(id string) {
	g, _, err := s.store.Entries(context.Background(), id)
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	members, err := s.store.Members(context.Background(), id)
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	s.behind[id] = g.Applied < g.Generation
	for _, m := range members {
		if m.Halted != "" {
			s.fail("halted", "%s is halted: %s", m.Name, m.Halted)
		}
		s.behind[id] = s.behind[id] || m.Applied < g.Generation || m.Dirty
	}
}
