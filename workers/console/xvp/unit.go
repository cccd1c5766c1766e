package xvp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"slipway/workers/appliance/agent"
)

// ServiceNone as UnitConfig.Service has files placed and judged and touches no process.
const ServiceNone = "none"

// UnitConfig is the console section of an agent, which runs as root or as the user that xvp runs as.
type UnitConfig struct {
	// Target is the file of ours, absolute, e.g. /etc/xvp/slipway.conf. It is written as a whole, mode 0600.
	Target string
	// Main is the file that xvp is started with, e.g. /etc/xvp.conf, and the site's own: it is read and never written. It holds the line
	//
	//	INCLUDE "/etc/xvp/slipway.conf"
	//
	// after the site's own pools. "" is Target itself, for a host that has no other pools.
	Main string
	// Service is "" to drive an xvp process, or ServiceNone.
	Service string
	// Program is the xvp binary; a process with another one is never signalled. Default /usr/sbin/xvp.
	Program string
	// PIDFile is where xvp writes its process id. Default /var/run/xvp.pid.
	PIDFile string
	// Start is the command that starts xvp and returns while it goes on. Default: Program -c Main -p PIDFile. Where systemd ends what a
	// login leaves behind, use ["systemctl", "start", "xvp"].
	Start []string
	// Loaded remembers which text the running process was made to read. Default Target + ".loaded".
	Loaded string
	// Timeout bounds each Reload and Prove. Default 20 s: 1,000 consoles are bound in 0.2 s.
	Timeout time.Duration
}

// Unit drives xvp on this host. It implements agent.Unit and has no state but its configuration.
type Unit struct {
	cfg UnitConfig
}

var (
	_ agent.Unit       = (*Unit)(nil)
	_ agent.RowCounter = (*Unit)(nil)
)

// NewUnit checks the configuration and fills in its defaults.
func NewUnit(cfg UnitConfig) (*Unit, error) {
	setDefault(&cfg.Main, cfg.Target)
	setDefault(&cfg.Program, "/usr/sbin/xvp")
	setDefault(&cfg.PIDFile, "/var/run/xvp.pid")
	setDefault(&cfg.Loaded, cfg.Target+".loaded")
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	if len(cfg.Start) == 0 {
		cfg.Start = []string{cfg.Program, "-c", cfg.Main, "-p", cfg.PIDFile}
	}
	if cfg.Service != "" && cfg.Service != ServiceNone {
		return nil, fmt.Errorf("console service %q: is neither empty, to drive xvp, nor %q, to place files only", cfg.Service, ServiceNone)
	}
	for _, field := range []struct{ name, path string }{
		{"target", cfg.Target}, {"main", cfg.Main}, {"program", cfg.Program}, {"pidfile", cfg.PIDFile}, {"loaded", cfg.Loaded},
	} {
		if _, err := quote(field.path); err != nil { // it may have to stand in an INCLUDE
			return nil, fmt.Errorf("console %s: %w", field.name, err)
		}
		if !filepath.IsAbs(field.path) || filepath.Clean(field.path) != field.path {
			return nil, fmt.Errorf("console %s %q: is no clean absolute path, write it from the root", field.name, field.path)
		}
	}
	return &Unit{cfg: cfg}, nil
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// Targets implements agent.Unit. The file holds passwords that anyone can decipher: nobody but its owner reads it.
func (u *Unit) Targets() map[string]agent.Target {
	return map[string]agent.Target{FileName: {Path: u.cfg.Target, Mode: 0o600}}
}

// Check implements agent.Unit: the candidate is read in its place within the site's main file, by the rules of Parse, since xvp itself
// cannot check. A refusal names the candidate's own line; of two equal things of which the site has one, ours gives way. A site's file that
// is broken without us is an ordinary error: no row is at fault. So is a file in our place that we did not write: it is not replaced.
func (u *Unit) Check(_ context.Context, dir string) error {
	candidate, err := readFile(filepath.Join(dir, FileName))
	if err != nil {
		return fmt.Errorf("read the candidate: %w", err)
	}
	if err := u.mayReplace(); err != nil {
		return err
	}
	_, _, err = u.parse(candidate)
	var bad *SyntaxError
	if !errors.As(err, &bad) {
		return err
	}
	if u.cfg.Main != u.cfg.Target {
		if _, _, alone := u.parse(nil); alone != nil {
			return fmt.Errorf("the site's own configuration: %w", alone)
		}
	}
	switch u.cfg.Target {
	case bad.File:
		return &agent.Fault{File: FileName, Line: bad.Line, Message: bad.Message + first(bad)}
	case bad.Other.File:
		return &agent.Fault{File: FileName, Line: bad.Other.Line, Message: fmt.Sprintf("%s: the site has it at %s", bad.Message, bad.Position)}
	}
	return &agent.Fault{File: FileName, Message: "what follows it no longer reads: " + bad.Error()}
}

// mayReplace refuses to write over pools of somebody else.
func (u *Unit) mayReplace() error {
	live, err := readFile(u.cfg.Target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(live)) == 0 || bytes.HasPrefix(live, []byte(Marker)) {
		return nil
	}
	return fmt.Errorf("%s was not written by slipway and is left alone: configure another file as ours, and include it from this one", u.cfg.Target)
}

// CountRows implements agent.RowCounter: the VMs of the file.
func (u *Unit) CountRows(files map[string][]byte) int {
	file, err := Parse(FileName, files[FileName], Rules{Ours: func(string) bool { return false }})
	if err != nil {
		return -1
	}
	rows := 0
	for _, pool := range file.Pools {
		rows += len(pool.VMs)
	}
	return rows
}

func first(bad *SyntaxError) string {
	if bad.Other.Line == 0 {
		return ""
	}
	return fmt.Sprintf(" (first at %s)", bad.Other)
}

// Reload implements agent.Unit. xvp is started when it does not run and stopped when no console is left, on which it would end. Otherwise it
// is told to read its files again and waited for until it has closed and bound every port anew; open sessions go on. Nothing is signalled
// while the files do not parse: xvp would end and take every session with it.
func (u *Unit) Reload(ctx context.Context, _ agent.Change) error {
	ctx, cancel := context.WithTimeoutCause(ctx, u.cfg.Timeout, fmt.Errorf("xvp was not ready within %s", u.cfg.Timeout))
	defer cancel()
	file, sum, err := u.live()
	if err != nil {
		return fmt.Errorf("xvp is not signalled: %w", err)
	}
	if u.cfg.Service == ServiceNone {
		return nil
	}
	running, err := u.process()
	if err != nil {
		return err
	}
	switch {
	case file.Empty():
		return u.stop(ctx, running)
	case running == nil:
		running, err = u.start(ctx, file.Ports())
	default:
		err = u.reread(ctx, running, file.Ports())
	}
	if err != nil {
		return err
	}
	return u.remember(running, sum)
}

// Prove implements agent.Unit: xvp runs, is the process that was made to read exactly this text, and listens on every port of it and on no
// other. Without a console xvp does not run.
func (u *Unit) Prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, u.cfg.Timeout, fmt.Errorf("xvp was not ready within %s", u.cfg.Timeout))
	defer cancel()
	file, sum, err := u.live()
	if err != nil || u.cfg.Service == ServiceNone {
		return err
	}
	running, err := u.process()
	switch {
	case err != nil:
		return err
	case file.Empty() && running == nil:
		return nil
	case file.Empty():
		return fmt.Errorf("xvp runs as process %d though no console is configured", running.pid)
	case running == nil:
		return fmt.Errorf("xvp does not run, %s names no live process of %s", u.cfg.PIDFile, u.cfg.Program)
	}
	if err := u.recall(running, sum); err != nil {
		return err
	}
	return running.await(ctx, file.Ports(), nil)
}

// live parses what lies in the targets, and hashes every file of it.
func (u *Unit) live() (*File, string, error) {
	ours, err := readFile(u.cfg.Target)
	if errors.Is(err, fs.ErrNotExist) && u.cfg.Main == u.cfg.Target {
		return &File{}, "", nil // put back to before the first apply
	}
	if err != nil {
		return nil, "", err
	}
	return u.parse(ours)
}

// parse reads the main file with ours in its place, and hashes all that was read.
func (u *Unit) parse(ours []byte) (*File, string, error) {
	rules := Rules{Ours: func(file string) bool { return file == u.cfg.Target }}
	if u.cfg.Service != ServiceNone {
		var err error
		if rules.Ephemeral, rules.Reserved, err = ephemeralPorts(); err != nil {
			return nil, "", err
		}
	}
	hash := sha256.New()
	add := func(path string, text []byte) {
		_, _ = fmt.Fprintf(hash, "%d:%s%d:", len(path), path, len(text)) // a hash never fails to write
		_, _ = hash.Write(text)
	}
	main, included := ours, true
	if u.cfg.Main != u.cfg.Target {
		var err error
		if main, err = readFile(u.cfg.Main); err != nil {
			return nil, "", err
		}
		included = false
		rules.Include = func(path string) ([]byte, error) {
			text, err := ours, error(nil)
			if path == u.cfg.Target {
				included = true
			} else {
				text, err = readFile(path)
			}
			add(path, text)
			return text, err
		}
	}
	add(u.cfg.Main, main)
	file, err := Parse(u.cfg.Main, main, rules)
	switch {
	case err != nil:
		return nil, "", err
	case !included:
		return nil, "", fmt.Errorf("%s does not include our file: add the line INCLUDE %q at its end", u.cfg.Main, u.cfg.Target)
	}
	return file, hex.EncodeToString(hash.Sum(nil)), nil
}

// readFile reads a regular file of bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxBytes)
	}
	return text, nil
}

// same reports that two lists hold the same ports.
func same(a, b []uint16) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
