package isc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// Driver is the name by which an agent's configuration asks for this Unit.
const Driver = "isc-dhcpd"

// Config is a unit's section in the agent's configuration.
//
//	dhcp:
//	  driver: isc-dhcpd
//	  restart: [systemctl, restart, isc-dhcp-server]
//
// Without a service manager the agent stops and starts dhcpd itself:
//
//	dhcp:
//	  driver: isc-dhcpd
//	  start: [/usr/sbin/dhcpd, -q, -cf, /etc/dhcp/dhcpd.conf, -pf, /run/dhcpd.pid, eth0]
//
// Debian 12 starts isc-dhcp-server by a script that sleeps for 2 s after dhcpd serves already; a unit of one's own answers at once.
type Config struct {
	Main    string `yaml:"main"`     // the site's main file, never written; "" is /etc/dhcp/dhcpd.conf
	Include string `yaml:"include"`  // where our file goes; "" is /etc/dhcp/slipway-hosts.conf
	Dhcpd   string `yaml:"dhcpd"`    // the program; "" is /usr/sbin/dhcpd
	PIDFile string `yaml:"pid_file"` // written by dhcpd; "" is /run/dhcpd.pid
	Port    uint16 `yaml:"port"`     // UDP, proven to be bound; 0 is 67
	// Restart is the command line that stops and starts dhcpd and returns when it has; empty is systemctl restart isc-dhcp-server.
	Restart []string `yaml:"restart"`
	// Start, when given, is used instead of Restart: the process of PIDFile is stopped (TERM, after StopTimeout KILL) and this command
	// line run, which must become a daemon.
	Start []string `yaml:"start"`
	// Log is the command line that prints the end of dhcpd's log, for the question what it has heard of a guest. Empty is the last 20,000 lines
	// that systemd's journal has of isc-dhcp-server; with Start, nobody is asked.
	Log          []string      `yaml:"log"`
	StopTimeout  time.Duration `yaml:"stop_timeout"`  // 0 is 5 s
	ServeTimeout time.Duration `yaml:"serve_timeout"` // from the start until the port is bound; 0 is 10 s
}

// Unit is dhcpd on this appliance. It keeps nothing between calls and may be used concurrently, though the agent never does.
type Unit struct{ cfg Config }

var (
	_ agent.Unit       = (*Unit)(nil)
	_ agent.RowCounter = (*Unit)(nil)
)

// Factory is New for an agent's Registry.
func Factory(settings agent.Settings) (agent.Unit, error) {
	var cfg Config
	if err := settings.Decode(&cfg); err != nil {
		return nil, err
	}
	return New(cfg)
}

// New fills in the standard values and refuses paths that cannot be. It touches nothing.
func New(cfg Config) (*Unit, error) {
	for _, path := range []struct {
		name     string
		value    *string
		standard string
	}{
		{"main", &cfg.Main, "/etc/dhcp/dhcpd.conf"},
		{"include", &cfg.Include, "/etc/dhcp/slipway-hosts.conf"},
		{"dhcpd", &cfg.Dhcpd, "/usr/sbin/dhcpd"},
		{"pid_file", &cfg.PIDFile, "/run/dhcpd.pid"},
	} {
		if *path.value == "" {
			*path.value = path.standard
		}
		if !filepath.IsAbs(*path.value) || strings.ContainsFunc(*path.value, unquotable) {
			return nil, fmt.Errorf("%s %q: an absolute path without quotes, backslashes and control characters is needed", path.name, *path.value)
		}
	}
	if cfg.Main == cfg.Include {
		return nil, errors.New("include: the main file is the site's own and cannot be ours")
	}
	if len(cfg.Start) > 0 && len(cfg.Restart) > 0 {
		return nil, errors.New("start and restart: only one of them can be")
	}
	if len(cfg.Start) == 0 && len(cfg.Restart) == 0 {
		cfg.Restart = []string{"systemctl", "restart", "isc-dhcp-server"}
	}
	if len(cfg.Start) == 0 && len(cfg.Log) == 0 {
		cfg.Log = []string{"journalctl", "--unit=isc-dhcp-server", "--quiet", "--no-pager", "--output=short-iso", "--lines=20000"}
	}
	if cfg.Port == 0 {
		cfg.Port = 67
	}
	if cfg.StopTimeout < 0 || cfg.ServeTimeout < 0 {
		return nil, errors.New("stop_timeout and serve_timeout: negative")
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 5 * time.Second
	}
	if cfg.ServeTimeout == 0 {
		cfg.ServeTimeout = 10 * time.Second
	}
	return &Unit{cfg}, nil
}

func unquotable(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == 0x7f }

// Targets is our one file.
func (u *Unit) Targets() map[string]agent.Target {
	return map[string]agent.Target{FileName: {Path: u.cfg.Include, Mode: 0o644}}
}

// CountRows counts host blocks.
func (u *Unit) CountRows(files map[string][]byte) int {
	return len(hostBlock.FindAll(files[FileName], -1))
}

var hostBlock = regexp.MustCompile(`(?m)^[ \t]*host[ \t]`)

// banner is what `dhcpd -t` says first. Its exit code alone would believe any program.
const banner = "Internet Systems Consortium DHCP Server"

// Check runs `dhcpd -t` on a copy of the main file that includes the candidate. A refusal is a Fault only when it names the candidate: a
// main file that is wrong by itself is the site's, and no row is to blame for it.
func (u *Unit) Check(ctx context.Context, dir string) error {
	candidate := filepath.Join(dir, FileName)
	main, err := os.ReadFile(u.cfg.Main)
	if err != nil {
		return fmt.Errorf("main file: %w", err)
	}
	if strings.ContainsFunc(candidate, unquotable) {
		return fmt.Errorf("candidate %q: the path cannot be written into dhcpd's configuration", candidate)
	}
	copied, err := withCandidate(string(main), u.cfg.Include, candidate)
	if err != nil {
		return fmt.Errorf("main file %s: %w", u.cfg.Main, err)
	}
	mainCopy := filepath.Join(dir, "main-with-candidate.conf")
	if err := os.WriteFile(mainCopy, []byte(copied), 0o600); err != nil {
		return err
	}
	out, err := run(ctx, []string{u.cfg.Dhcpd, "-t", "-cf", mainCopy})
	var exit *exitError
	switch {
	case err == nil && strings.Contains(out, banner):
		return nil
	case err == nil:
		return fmt.Errorf("%s -t does not speak as ISC dhcpd does: %q", u.cfg.Dhcpd, firstLine(out))
	case errors.As(err, &exit):
		return refusal(out, candidate, mainCopy, u.cfg.Main, exit)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", exec.ErrNotFound, err)
	default:
		return err
	}
}

// faultLine is dhcpd's way of naming a place (common/parse.c: "%s line %d: %s").
var faultLine = regexp.MustCompile(`(?m)^(/\S.*?) line (\d+): (.*)$`)

func refusal(out, candidate, mainCopy, main string, exit error) error {
	for _, m := range faultLine.FindAllStringSubmatch(out, -1) {
		if m[1] != candidate {
			continue
		}
		line, err := strconv.Atoi(m[2])
		if err != nil {
			line = 0
		}
		return &agent.Fault{File: FileName, Line: line, Message: printable(m[3])}
	}
	if m := faultLine.FindStringSubmatch(out); m != nil {
		return fmt.Errorf("%s line %s: %s", strings.ReplaceAll(m[1], mainCopy, main), m[2], printable(m[3]))
	}
	return fmt.Errorf("dhcpd -t: %w: %s", exit, printable(strings.TrimPrefix(out, banner)))
}

// Reload restarts dhcpd and waits until a process that was not there before has bound its port. The leases file is left to dhcpd.
func (u *Unit) Reload(ctx context.Context, _ agent.Change) error {
	before, err := u.process()
	if err != nil && !errors.Is(err, errNoProcess) {
		return err
	}
	command := u.cfg.Restart
	if len(u.cfg.Start) > 0 {
		if err := u.stop(ctx, before); err != nil {
			return fmt.Errorf("stop dhcpd: %w", err)
		}
		command = u.cfg.Start
	}
	if out, err := run(ctx, command); err != nil {
		return fmt.Errorf("%s: %w: %s", command[0], err, printable(tail(out)))
	}
	return u.awaitServing(ctx, before)
}

// stop ends the process, if there is one, and removes the pid file: dhcpd leaves its own behind, and the next one refuses to start while
// kill(pid, 0) finds as much as a zombie or another program under that number.
func (u *Unit) stop(ctx context.Context, p *process) error {
	if p != nil {
		if err := p.stop(ctx, u.cfg.StopTimeout); err != nil {
			return err
		}
	}
	if err := os.Remove(u.cfg.PIDFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u *Unit) awaitServing(ctx context.Context, before *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, u.cfg.ServeTimeout, fmt.Errorf("no new dhcpd serves after %s", u.cfg.ServeTimeout))
	defer cancel()
	return poll(ctx, func() error {
		now, err := u.process()
		if err != nil {
			return err
		}
		if before != nil && *now == *before {
			return fmt.Errorf("process %d is the one from before", now.pid)
		}
		return now.bound(u.cfg.Port)
	})
}

// Prove is nil when a dhcpd runs that started after our file came to its place, has its port bound in its own network, and has a main
// file that includes ours.
func (u *Unit) Prove(ctx context.Context) error {
	main, err := os.ReadFile(u.cfg.Main)
	if err != nil {
		return fmt.Errorf("main file: %w", err)
	}
	if _, err := withCandidate(string(main), u.cfg.Include, ""); err != nil {
		return fmt.Errorf("main file %s: %w", u.cfg.Main, err)
	}
	came, err := placedAt(u.cfg.Include)
	if err != nil {
		return err
	}
	p, err := u.process()
	if err != nil {
		return err
	}
	started, err := p.startedAt()
	if err != nil {
		return err
	}
	if started.Add(clockTick).Before(came) {
		return fmt.Errorf("dhcpd (process %d) started at %s, before its hosts file came at %s", p.pid, stamp(started), stamp(came))
	}
	return p.bound(u.cfg.Port)
}

// process is the dhcpd of the pid file; errNoProcess when there is none.
func (u *Unit) process() (*process, error) {
	return findProcess(u.cfg.PIDFile, filepath.Base(u.cfg.Dhcpd))
}

// placedAt is when the file got its place: a rename changes the inode's status, and its content may be older.
func placedAt(path string) (time.Time, error) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if changed := time.Unix(stat.Ctim.Sec, stat.Ctim.Nsec); changed.After(info.ModTime()) {
			return changed, nil
		}
	}
	return info.ModTime(), nil
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// outputLimit bounds in bytes what we keep of a program's words.
const outputLimit = 64 << 10

type bounded struct{ bytes.Buffer }

// Write keeps the beginning and takes the rest, so that the program never blocks on us.
func (b *bounded) Write(p []byte) (int, error) {
	if room := outputLimit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

var _ io.Writer = (*bounded)(nil)

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return printable(line)
}

func tail(s string) string {
	const keep = 600
	if s = strings.TrimSpace(s); len(s) > keep {
		s = strings.ToValidUTF8(s[len(s)-keep:], "")
	}
	return s
}

// printable is one line of a tool's words.
func printable(s string) string { return orchestrator.OneLine(s, outputLimit) }
