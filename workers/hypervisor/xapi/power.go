package xapi

import (
	"context"

	"slipway/orchestrator"
)

// StartMachine implements orchestrator.Hypervisor. With an empty host xapi chooses one. The host is asked first, because its reason ("not
// enough memory") is lost when the start itself is refused with NO_HOSTS_AVAILABLE.
func (b *Backend) StartMachine(ctx context.Context, ref orchestrator.MachineRef, host string) (string, error) {
	p, err := b.refPool("StartMachine", ref)
	if err != nil {
		return "", err
	}
	vm, rec, found, err := p.owned(ctx, ref)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", orchestrator.Errorf("xapi.StartMachine", orchestrator.Permanent, "VM %s is gone: %w", ref.VM, orchestrator.ErrNotFound)
	case rec.Template:
		return "", orchestrator.Errorf("xapi.StartMachine", orchestrator.Permanent, "VM %s is still a template", ref.VM)
	case rec.Power == "Running":
		return "", nil
	}
	if task, operation := rec.busy("start", "start_on", "unpause", "resume", "resume_on"); operation != "" {
		return string(task), nil // an earlier attempt's: wait for that one
	}
	switch rec.Power {
	case "Paused":
		return p.start(ctx, "VM.unpause", vm)
	case "Suspended":
		return p.start(ctx, "VM.resume", vm, false, false)
	}
	if host == "" {
		return p.start(ctx, "VM.start", vm, false, false)
	}
	var on Ref
	if err := p.client.Call(ctx, "host.get_by_uuid", &on, host); HasCode(err, codeUUIDInvalid) {
		return "", orchestrator.Errorf("xapi.StartMachine", orchestrator.Exhausted, "host %s has left pool %s: %w", printable(host), p.id, err)
	} else if err != nil {
		return "", err
	}
	if err := p.client.Call(ctx, "VM.assert_can_boot_here", nil, vm, on); err != nil {
		return "", err
	}
	return p.start(ctx, "VM.start_on", vm, on, false, false)
}

// StopMachine implements orchestrator.Hypervisor. A clean shutdown needs the guest's tools; a guest without them is kind Permanent, and
// hard is what remains. A hard one takes over from a clean one in progress.
func (b *Backend) StopMachine(ctx context.Context, ref orchestrator.MachineRef, hard bool) (string, error) {
	p, err := b.refPool("StopMachine", ref)
	if err != nil {
		return "", err
	}
	if ref.VM == "" {
		return "", nil // never known, so never started
	}
	vm, rec, found, err := p.owned(ctx, ref)
	if err != nil || !found {
		return "", err
	}
	if rec.Power == "Halted" {
		if _, operation := rec.busy("start", "start_on"); operation != "" {
			// It is halted until it runs, and a shutdown now would be refused.
			return "", orchestrator.Errorf("xapi.StopMachine", orchestrator.Transient, "VM %s is being started: stop it when it runs", ref.VM)
		}
		return "", nil
	}
	if task, operation := rec.busy("hard_shutdown"); operation != "" {
		return string(task), nil
	}
	if hard || rec.Power != "Running" {
		return p.start(ctx, "VM.hard_shutdown", vm)
	}
	if task, operation := rec.busy("clean_shutdown"); operation != "" {
		return string(task), nil
	}
	return p.start(ctx, "VM.clean_shutdown", vm)
}

func (p *pool) start(ctx context.Context, method string, args ...any) (string, error) {
	task, err := p.client.StartTask(ctx, method, args...)
	return string(task), err
}

// NameMachine implements orchestrator.Hypervisor. It also removes what other attempts may have left: after this nobody looks again before
// the machine goes.
func (b *Backend) NameMachine(ctx context.Context, ref orchestrator.MachineRef, name string) error {
	p, err := b.refPool("NameMachine", ref)
	if err != nil {
		return err
	}
	vm, rec, found, err := p.owned(ctx, ref)
	if err != nil {
		return err
	}
	if !found {
		return orchestrator.Errorf("xapi.NameMachine", orchestrator.Permanent, "VM %s is gone: %w", ref.VM, orchestrator.ErrNotFound)
	}
	if _, tagged := rec.tag(); !tagged {
		return orchestrator.Errorf("xapi.NameMachine", orchestrator.Permanent, "VM %s has no tag yet: its clone name is all that tells whose it is", ref.VM)
	}
	if _, err := p.removeSiblings(ctx, ref.Machine, rec.UUID); err != nil {
		return err
	}
	if rec.Name == name {
		return nil
	}
	return p.client.Call(ctx, "VM.set_name_label", nil, vm, name)
}
