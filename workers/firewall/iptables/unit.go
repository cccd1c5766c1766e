package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// maxRules bounds a rules file in bytes; 10,000 machines with seven rules each make 12 MB.
const maxRules = 64 << 20

// DefaultRevertAfter is how long a change may stay unproven. It is longer than the agent takes to give up and go back by itself, so that
// the timer acts for a dead agent only.
const DefaultRevertAfter = 4 * time.Minute

// UnitConfig says how this firewall is driven.
type UnitConfig struct {
	Rules string `yaml:"rules"` // absolute path of the rules file, e.g. /var/lib/slipway/firewall/rules.v4; read by Boot
	State string `yaml:"state"` // absolute path of a directory of the unit's own, made if missing: lock, old rules, revert timer

	// The programs; "" looks the usual name up in PATH and /usr/sbin. LegacySave and NFTSave may be absent from the machine.
	Save       string `yaml:"iptables_save"`
	Restore    string `yaml:"iptables_restore"`
	Conntrack  string `yaml:"conntrack"`
	LegacySave string `yaml:"iptables_legacy_save"`
	NFTSave    string `yaml:"iptables_nft_save"`

	// RevertAfter bounds how long a change stays without proof before the old rules come back; 0 is DefaultRevertAfter. Make it longer
	// than the agent's timeout and restore_timeout together.
	RevertAfter time.Duration `yaml:"revert_after"`
	// Watcher is the command line of a process that calls Watch on a unit of this same configuration, with descriptor 3 as ready. It is
	// started in a session of its own, as the agent's user, and must not end with the agent: under systemd, KillMode=process or a unit
	// of its own; logind's KillUserProcesses=no is the default. Required unless RevertAfter is negative, which goes without a timer.
	Watcher []string `yaml:"-"`

	// Announce is how this firewall answers ARP for public addresses that are delivered so; nil announces nothing.
	Announce *AnnounceConfig `yaml:"announce"`

	Log *slog.Logger `yaml:"-"` // nil discards
}

// Unit is the firewall on this machine, in the network namespace of its process. Calls from several processes exclude each other by a
// lock in UnitConfig.State.
type Unit struct{ cfg UnitConfig }

var (
	_ agent.Unit       = (*Unit)(nil)
	_ agent.RowCounter = (*Unit)(nil)
)

// NewUnit checks the configuration and looks for the programs. One that is missing is no error yet: Probe says so.
func NewUnit(cfg UnitConfig) (*Unit, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RevertAfter == 0 {
		cfg.RevertAfter = DefaultRevertAfter
	}
	var errs []error
	for field, path := range map[string]string{"rules": cfg.Rules, "state": cfg.State} {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			errs = append(errs, fmt.Errorf("%s: %q is not a clean absolute path", field, path))
		}
	}
	if cfg.Announce != nil {
		announce := *cfg.Announce
		if announce.File == "" {
			announce.File = filepath.Join(filepath.Dir(cfg.Rules), AnnounceFile)
		}
		cfg.Announce = &announce
		errs = append(errs, announce.validate()...)
	}
	if cfg.RevertAfter > 0 && len(cfg.Watcher) == 0 {
		errs = append(errs, errors.New("watcher: empty; give the command that waits for the revert timer, or a negative revert_after to go without"))
	}
	for _, tool := range []struct {
		path *string
		name string
	}{
		{&cfg.Save, "iptables-save"}, {&cfg.Restore, "iptables-restore"}, {&cfg.Conntrack, "conntrack"},
		{&cfg.LegacySave, "iptables-legacy-save"}, {&cfg.NFTSave, "iptables-nft-save"},
	} {
		if *tool.path == "" {
			*tool.path = find(tool.name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, orchestrator.E("iptables.NewUnit", orchestrator.Permanent, err)
	}
	return &Unit{cfg: cfg}, nil
}

// find gives the program's absolute path, or its bare name when it is not on this machine.
func find(program string) string {
	for _, name := range []string{program, "/usr/sbin/" + program, "/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil && filepath.IsAbs(path) {
			return path
		}
	}
	return program
}

// Targets implements agent.Unit. The rules tell who may reach whom, which is nobody else's business.
func (u *Unit) Targets() map[string]agent.Target {
	targets := map[string]agent.Target{RulesFile: {Path: u.cfg.Rules, Mode: 0o600}}
	if u.cfg.Announce != nil {
		targets[AnnounceFile] = agent.Target{Path: u.cfg.Announce.File, Mode: 0o600}
	}
	return targets
}

// CountRows implements agent.RowCounter by the machines' chains.
func (u *Unit) CountRows(files map[string][]byte) int {
	return bytes.Count(files[RulesFile], []byte("\n:"+machinePrefix))
}

// Check implements agent.Unit: first our own gate, then iptables-restore --test. A firewall that cannot be driven is ErrUnsupported.
func (u *Unit) Check(ctx context.Context, dir string) error {
	const op = "iptables.Check"
	text, err := readRules(filepath.Join(dir, RulesFile))
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	rules, err := parseRules(text)
	if err != nil {
		fault := &agent.Fault{File: RulesFile, Message: err.Error()}
		var at *LineError
		if errors.As(err, &at) {
			fault.Line, fault.Message = at.Line, at.Problem
		}
		return fault
	}
	if err := u.Probe(ctx); err != nil {
		return err
	}
	if err := u.checkAnnouncements(dir, rules); err != nil {
		return err
	}
	_, err = run(ctx, text, u.cfg.Restore, "--test", "--noflush", "-w", waitSeconds)
	var refused *toolError
	if errors.As(err, &refused) {
		if fault := faultOf(refused.stderr); fault.Line > 0 {
			return fault
		}
	}
	return orchestrator.E(op, orchestrator.Transient, err) // a held lock, a missing right: nobody's row
}

// Reload implements agent.Unit. The old rules come back by themselves unless Prove succeeds within RevertAfter. An error leaves the
// tables in the old state or in one between; the agent goes back then, and the timer does when the agent cannot.
func (u *Unit) Reload(ctx context.Context, c agent.Change) error {
	const op = "iptables.Reload"
	for _, a := range c.Cut {
		if !a.Is4() {
			return orchestrator.Errorf(op, orchestrator.Permanent, "cut: %s is not IPv4", a)
		}
	}
	release, err := u.lock(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	defer release()
	want, err := u.target()
	if errors.Is(err, fs.ErrNotExist) && c.Restoring {
		want, err = newRuleset(), nil // there was no file before the change that is taken back
	}
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	live, old, err := u.live(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	todo := plan(live, want)
	if todo != "" && !c.Restoring {
		if err := u.arm(ctx, old); err != nil {
			return orchestrator.E(op, orchestrator.Transient, err)
		}
	}
	if err := u.load(ctx, want, todo); err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	// What ran may differ from what the file said: somebody's hand, or a change that is taken back.
	cut := slices.Concat(c.Cut, cuts(live, want))
	slices.SortFunc(cut, netip.Addr.Compare)
	cut = slices.Compact(cut)
	u.cfg.Log.InfoContext(ctx, "firewall rules loaded", "changed", todo != "", "cut", len(cut), "restoring", c.Restoring)
	return u.cutAll(ctx, cut)
}

// Prove implements agent.Unit: every chain of ours holds the rules of the file, there are no others, each jump is there once and first,
// and the kernel announces what a firewall of this one's role should. Where there is no file there is nothing of ours. It disarms the
// revert timer, and tries announcements that are not right: the role may have changed since Reload.
func (u *Unit) Prove(ctx context.Context) error {
	const op = "iptables.Prove"
	release, err := u.lock(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	defer release()
	want, err := u.target()
	if errors.Is(err, fs.ErrNotExist) {
		want, err = newRuleset(), nil
	}
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	live, _, err := u.live(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	if found := differences(live, want); len(found) > 0 {
		return orchestrator.Errorf(op, orchestrator.Transient, "the running rules are not those of %s: %s", u.cfg.Rules, strings.Join(found, "; "))
	}
	if err := u.announce(ctx, live); err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	return orchestrator.E(op, orchestrator.Transient, u.disarm())
}

// Boot makes the rules live when the machine starts: those of the rules file, or, when the last change was never proven, those before it.
// A firewall that was never given a file has nothing to restore. Run it before the network comes up, e.g. from a systemd unit with
// Before=network-pre.target and Wants=network-pre.target. Running it again changes nothing. It does not Probe: on a firewall that an apply
// would refuse, old rules are better than none. It announces nothing, there is no network yet: that is Follow's.
func (u *Unit) Boot(ctx context.Context) error {
	const op = "iptables.Boot"
	release, err := u.lock(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	defer release()
	record, err := u.record()
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	var want ruleset
	if record != nil {
		u.cfg.Log.WarnContext(ctx, "the last change of the firewall was not proven, the rules before it are restored", "armed_at", record.ArmedAt)
		want = parseSave(record.Old)
	} else if want, err = u.target(); errors.Is(err, fs.ErrNotExist) {
		u.cfg.Log.InfoContext(ctx, "no firewall rules to restore", "file", u.cfg.Rules)
		return nil
	} else if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	if err := u.become(ctx, want); err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	u.cfg.Log.InfoContext(ctx, "firewall rules restored")
	return nil
}

// target reads the rules file that should be live.
func (u *Unit) target() (ruleset, error) {
	text, err := readRules(u.cfg.Rules)
	if err != nil {
		return nil, err
	}
	rules, err := parseRules(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.cfg.Rules, err)
	}
	return rules, nil
}

func readRules(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRules+1))
	if err == nil && len(text) > maxRules {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxRules)
	}
	return string(text), err
}
