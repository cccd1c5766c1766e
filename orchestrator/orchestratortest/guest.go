package orchestratortest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// bootRounds is how long a guest needs from the start of its VM until it answers.
const bootRounds = 2

// templateKey is the host key that every guest has until its job has given it its own.
const templateKey = "ssh-ed25519 TEMPLATE"

// servedBy is where a finished guest listens.
var servedBy = []uint16{22}

var _ orchestrator.Installer = (*World)(nil)

// leaseOf is the address that the DHCP appliances give a VM, or the one it configures itself where the network is served by others.
func (w *World) leaseOf(v *vm) (netip.Addr, bool) {
	if v.own.IsValid() {
		return v.own, true
	}
	if w.ServedElsewhere {
		return v.address, v.address.IsValid()
	}
	for _, entries := range w.live {
		for _, body := range entries {
			var host orchestrator.DHCPHost
			if json.Unmarshal(body, &host) == nil && host.MAC == v.mac && host.Address.IsValid() {
				return host.Address, true
			}
		}
	}
	return netip.Addr{}, false
}

// behind finds the running VM that answers at an address, and the firewall's entry that lets it.
func (w *World) behind(address netip.Addr) (*vm, orchestrator.FirewallEntry, bool) {
	for _, entries := range w.live {
		for machine, body := range entries {
			var entry orchestrator.FirewallEntry
			if json.Unmarshal(body, &entry) != nil || entry.Phase == "" {
				continue
			}
			if entry.Public != address && (entry.Public.IsValid() || entry.Private != address) {
				continue
			}
			for _, v := range w.of(machine) {
				lease, ok := w.leaseOf(v)
				if v.power == "running" && ok && lease == entry.Private && (v.up >= bootRounds || w.Instant) {
					return v, entry, true
				}
			}
		}
	}
	return nil, orchestrator.FirewallEntry{}, false
}

// reach finds the guest that the installer talks to.
func (w *World) reach(op string, g orchestrator.Guest) (*vm, error) {
	v, entry, ok := w.behind(g.Address.Addr())
	switch {
	case !ok:
		return nil, orchestrator.Errorf(op, orchestrator.Transient, "%s does not answer", g.Address)
	case entry.Phase != orchestrator.PhaseInstaller || !slices.Contains(entry.Ports, g.Address.Port()):
		return nil, orchestrator.Errorf(op, orchestrator.Transient, "the firewall drops the installer at %s", g.Address)
	case v.machine != g.Machine, v.guest.hostKey != g.HostKey && (g.Own || v.guest.hostKey != templateKey):
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "somebody else answers at %s", g.Address)
	case v.guest.left && op != "Probe" && op != "Leave":
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "%s does not let the installer in", g.Address)
	}
	return v, nil
}

// Ports implements orchestrator.Installer.
func (w *World) Ports(image string) ([]uint16, error) {
	if image != "debian-12" {
		return nil, orchestrator.Errorf("Ports", orchestrator.Permanent, "the catalogue has no %q", image)
	}
	return []uint16{22}, nil
}

// Serves implements orchestrator.Installer.
func (w *World) Serves(image string) ([]uint16, error) {
	_, err := w.Ports(image)
	return servedBy, err
}

// Probe implements orchestrator.Installer.
func (w *World) Probe(_ context.Context, g orchestrator.Guest) (string, error) {
	p, err := w.enter("Probe")
	if err != nil {
		return "", err
	}
	if _, err := w.reach("Probe", g); err != nil {
		return "", err
	}
	return "answers with the expected key", w.pass(p, After)
}

// EnsureJob implements orchestrator.Installer. Its parts are the upload, of which nothing is seen, and the start.
func (w *World) EnsureJob(_ context.Context, g orchestrator.Guest, j orchestrator.Job) error {
	p, err := w.enter("EnsureJob")
	if err != nil {
		return err
	}
	v, err := w.reach("EnsureJob", g)
	if err != nil {
		return err
	}
	if err := w.pass(p, During); err != nil {
		return err
	}
	if v.guest.jobs[j.ID] == nil {
		for _, other := range v.guest.jobs {
			if other.left > 0 && !other.lost {
				w.violate("two jobs at once in the guest of machine %s", g.Machine)
			}
		}
		if j.HostKeySecret.IsZero() {
			w.violate("the job of machine %s has no host key", g.Machine)
		}
		if j.AdministratorPassword.IsZero() {
			w.violate("the job of machine %s has no administrator's password", g.Machine)
		}
		started := &job{left: w.last(3), key: g.HostKey, hostname: j.Hostname, keys: j.SSHKeys}
		if w.FailJobs > 0 {
			w.FailJobs--
			started.exit = cmp.Or(w.JobExit, 100)
		}
		v.guest.jobs[j.ID] = started
		w.Effects["job"]++
		if started.left == 0 {
			v.finish(started)
		}
	}
	return w.pass(p, After)
}

// ObserveJob implements orchestrator.Installer.
func (w *World) ObserveJob(_ context.Context, g orchestrator.Guest, id string, offset int64) (orchestrator.JobStatus, error) {
	p, err := w.enter("ObserveJob")
	if err != nil {
		return orchestrator.JobStatus{}, err
	}
	v, err := w.reach("ObserveJob", g)
	if err != nil {
		return orchestrator.JobStatus{}, err
	}
	j := v.guest.jobs[id]
	status := orchestrator.JobStatus{State: orchestrator.JobExited, Stage: "10-packages", Offset: offset + 10}
	switch {
	case j == nil:
		status = orchestrator.JobStatus{State: orchestrator.JobUnknown}
	case j.lost:
		status.State = orchestrator.JobLost
	case j.left > 0:
		status.State = orchestrator.JobRunning
	default:
		status.Exit, status.Log = j.exit, []byte("the last line of the job\n")
	}
	return status, w.pass(p, After)
}

// Inspect implements orchestrator.Installer.
func (w *World) Inspect(_ context.Context, g orchestrator.Guest) (orchestrator.Inspection, error) {
	p, err := w.enter("Inspect")
	if err != nil {
		return orchestrator.Inspection{}, err
	}
	v, err := w.reach("Inspect", g)
	if err != nil {
		return orchestrator.Inspection{}, err
	}
	return orchestrator.Inspection{Identity: v.guest.identity, Checks: map[string]string{"packages": "ok"}}, w.pass(p, After)
}

// Leave implements orchestrator.Installer. Whatever else the installer asks afterwards, the guest does not let it in.
func (w *World) Leave(_ context.Context, g orchestrator.Guest) error {
	p, err := w.enter("Leave")
	if err != nil {
		return err
	}
	v, err := w.reach("Leave", g)
	if err != nil {
		return err
	}
	v.guest.left = true
	v.guest.door = true
	return w.pass(p, After)
}

// Maintainable implements orchestrator.Maintainer.
func (w *World) Maintainable(string) string { return "" }

// ChangeGuest implements orchestrator.Maintainer. Its parts are the hostname and the keys.
func (w *World) ChangeGuest(_ context.Context, g orchestrator.Guest, c orchestrator.GuestChange) error {
	p, err := w.enter("ChangeGuest")
	if err != nil {
		return err
	}
	v, entry, ok := w.behind(g.Address.Addr())
	switch {
	case !ok:
		return orchestrator.Errorf("ChangeGuest", orchestrator.Transient, "%s does not answer", g.Address)
	case entry.Phase != orchestrator.PhaseCustomer || !slices.Contains(entry.Ports, g.Address.Port()):
		return orchestrator.Errorf("ChangeGuest", orchestrator.Transient, "the firewall drops the maintainer at %s", g.Address)
	case v.guest.hostKey != g.HostKey || !g.Own || !v.guest.door:
		return orchestrator.Errorf("ChangeGuest", orchestrator.Permanent, "%s does not let the maintainer in", g.Address)
	}
	if c.Hostname != "" {
		v.guest.hostname = c.Hostname
	}
	if err := w.pass(p, During); err != nil {
		return err
	}
	keys := slices.DeleteFunc(slices.Clone(v.guest.keys), func(key string) bool { return slices.Contains(c.Drop, key) })
	for _, key := range c.Keys {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	v.guest.keys = keys
	return w.pass(p, After)
}

// Prober looks into a World as a customer would. It implements orchestrator.Prober.
type Prober struct{ World *World }

// TryPort implements orchestrator.Prober. A guest listens on its image's ports alone and refuses the others.
func (o Prober) TryPort(_ context.Context, _ string, target netip.AddrPort) (orchestrator.PortAnswer, error) {
	p, err := o.World.enter("TryPort")
	if err != nil {
		return "", err
	}
	answer := orchestrator.PortSilent
	if _, entry, ok := o.World.behind(target.Addr()); ok && (o.World.Leaky || admits(entry, target.Port())) {
		answer = orchestrator.PortRefused
		if slices.Contains(servedBy, target.Port()) && !o.World.Deaf {
			answer = orchestrator.PortOpen
		}
	}
	return answer, o.World.pass(p, After)
}

func admits(entry orchestrator.FirewallEntry, port uint16) bool {
	return slices.ContainsFunc(entry.Rules, func(rule orchestrator.FirewallRule) bool {
		return rule.Protocol == "tcp" && slices.ContainsFunc(rule.Ports, func(p orchestrator.PortRange) bool { return p.First <= port && port <= p.Last })
	})
}

// NoConsole implements orchestrator.Prober.
func (o Prober) NoConsole(_ context.Context, m orchestrator.Machine) error {
	p, err := o.World.enter("NoConsole")
	if err != nil {
		return err
	}
	if _, open := o.World.live[m.Placement.Console][m.ID]; open {
		return orchestrator.Errorf("NoConsole", orchestrator.Transient, "port %d still listens", m.Placement.ConsolePort)
	}
	return o.World.pass(p, After)
}

// Console implements orchestrator.Prober.
func (o Prober) Console(_ context.Context, m orchestrator.Machine) error {
	p, err := o.World.enter("Console")
	if err != nil {
		return err
	}
	var entry orchestrator.ConsoleEntry
	body := o.World.live[m.Placement.Console][m.ID]
	if json.Unmarshal(body, &entry) != nil || entry.Port != m.Placement.ConsolePort || o.World.find(entry.VM) == nil ||
		entry.Password != base64.StdEncoding.EncodeToString(m.ConsolePassword) {
		return orchestrator.Errorf("Console", orchestrator.Transient, "no console at port %d", m.Placement.ConsolePort)
	}
	return o.World.pass(p, After)
}

// Vault seals by turning every byte over, which is enough to see a secret that was not opened, or not sealed. It implements
// orchestrator.Vault.
type Vault struct{}

// Seal implements orchestrator.Vault.
func (Vault) Seal(machine, name string, s orchestrator.Secret) (orchestrator.Sealed, error) {
	sealed := []byte(machine + "/" + name + "/" + s.Reveal())
	for i := range sealed {
		sealed[i] ^= 0xff
	}
	return sealed, nil
}

// Open implements orchestrator.Vault.
func (Vault) Open(machine, name string, s orchestrator.Sealed) (orchestrator.Secret, error) {
	opened := slices.Clone(s)
	for i := range opened {
		opened[i] ^= 0xff
	}
	value, ok := bytes.CutPrefix(opened, []byte(machine+"/"+name+"/"))
	if !ok {
		return orchestrator.Secret{}, orchestrator.Errorf("Open", orchestrator.Permanent, "%s of machine %s was not sealed here", name, machine)
	}
	return orchestrator.NewSecret(string(value)), nil
}

// PowerOff stops the machine's VM behind everybody's back, as its customer may.
func (w *World) PowerOff(machine string) {
	for _, v := range w.of(machine) {
		v.power, v.host, v.up = "halted", "", 0
	}
}

// DestroyMachineOutside removes the machine's VM behind everybody's back, as somebody at the pool may.
func (w *World) DestroyMachineOutside(machine string) {
	for _, v := range w.of(machine) {
		w.remove(v)
	}
}

// ShutDoor takes the maintainer's way in out of the machine's guest, as its customer may.
func (w *World) ShutDoor(machine string) {
	for _, v := range w.of(machine) {
		v.guest.door = false
	}
}
