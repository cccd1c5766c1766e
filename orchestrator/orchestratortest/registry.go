package orchestratortest

import (
	"context"
	"fmt"

	"slipway/orchestrator"
)

var (
	_ orchestrator.Names      = (*World)(nil)
	_ orchestrator.Monitoring = (*World)(nil)
)

// entry is what a name holds in the DNS, with the machine whose mark it has, "" for none.
type entry struct{ value, machine string }

// pair is what a record makes: the name's address, and the pointer's name where there is one.
func pair(r orchestrator.NameRecord) []struct{ name, value string } {
	made := []struct{ name, value string }{{r.Name, r.Address.String()}}
	if r.Pointer != "" {
		made = append(made, struct{ name, value string }{r.Pointer, r.Name})
	}
	return made
}

// EnsureName implements orchestrator.Names.
func (w *World) EnsureName(_ context.Context, machine string, r orchestrator.NameRecord) error {
	p, err := w.enter("EnsureName")
	if err != nil {
		return err
	}
	for i, want := range pair(r) {
		if i > 0 {
			if err := w.pass(p, During); err != nil {
				return err
			}
		}
		switch held, taken := w.dns[want.name]; {
		case !taken:
			w.dns[want.name] = entry{want.value, machine}
			w.Effects["name"]++
		case held != entry{want.value, machine}:
			return orchestrator.Errorf("EnsureName", orchestrator.Permanent, "%s: %w", want.name, orchestrator.ErrNameTaken)
		}
	}
	return w.pass(p, After)
}

// RemoveName implements orchestrator.Names.
func (w *World) RemoveName(_ context.Context, machine string, r orchestrator.NameRecord) error {
	p, err := w.enter("RemoveName")
	if err != nil {
		return err
	}
	all := pair(r)
	for i := len(all) - 1; i >= 0; i-- {
		if w.dns[all[i].name].machine == machine {
			delete(w.dns, all[i].name)
		}
		if i > 0 {
			if err := w.pass(p, During); err != nil {
				return err
			}
		}
	}
	return w.pass(p, After)
}

// ObserveName implements orchestrator.Names.
func (w *World) ObserveName(_ context.Context, machine string, r orchestrator.NameRecord) (orchestrator.NameState, error) {
	p, err := w.enter("ObserveName")
	if err != nil {
		return orchestrator.NameState{}, err
	}
	state := orchestrator.NameState{Whole: true}
	for _, want := range pair(r) {
		held := w.dns[want.name]
		state.Whole = state.Whole && held == entry{want.value, machine}
		state.Left = state.Left || held.machine == machine
	}
	return state, w.pass(p, After)
}

// PutName is somebody's work outside: the name holds a value of theirs, "" for none.
func (w *World) PutName(name, value string) {
	if value == "" {
		delete(w.dns, name)
		return
	}
	w.dns[name] = entry{value: value}
}

// Name is what a name holds.
func (w *World) Name(name string) string { return w.dns[name].value }

// EnsureHost implements orchestrator.Monitoring.
func (w *World) EnsureHost(_ context.Context, h orchestrator.MonitoredHost) error {
	p, err := w.enter("EnsureHost")
	if err != nil {
		return err
	}
	if w.monitored[h.Machine] != h {
		w.monitored[h.Machine] = h
		w.Effects["host"]++
	}
	return w.pass(p, After)
}

// RemoveHost implements orchestrator.Monitoring.
func (w *World) RemoveHost(_ context.Context, machine string) error {
	p, err := w.enter("RemoveHost")
	if err != nil {
		return err
	}
	delete(w.monitored, machine)
	return w.pass(p, After)
}

// ObserveHost implements orchestrator.Monitoring.
func (w *World) ObserveHost(_ context.Context, machine string) (orchestrator.MonitoredHost, error) {
	p, err := w.enter("ObserveHost")
	if err != nil {
		return orchestrator.MonitoredHost{}, err
	}
	h, ok := w.monitored[machine]
	if err := w.pass(p, After); err != nil {
		return orchestrator.MonitoredHost{}, err
	}
	if !ok {
		return h, orchestrator.Errorf("ObserveHost", orchestrator.Permanent, "host %s: %w", machine, orchestrator.ErrNotFound)
	}
	return h, nil
}

// describeRegistry lists what is registered.
func (w *World) describeRegistry() []string {
	var lines []string
	for name, e := range w.dns {
		lines = append(lines, fmt.Sprintf("name %s holds %s of %q", name, e.value, e.machine))
	}
	for _, h := range w.monitored {
		lines = append(lines, fmt.Sprintf("monitored %+v", h))
	}
	return lines
}
