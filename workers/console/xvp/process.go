package xvp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

// process is a live xvp master. It stays the same one also when its number is given to another process: handle is held by a pidfd, and start
// tells two processes of one number apart.
type process struct {
	pid    int
	start  uint64 // clock ticks after boot
	handle *os.Process
}

// ended says that the process is gone, which no waiting cures.
type ended struct{ pid int }

func (e *ended) Error() string {
	return fmt.Sprintf("xvp, process %d, has ended; its log says why", e.pid)
}

// process finds the process that the pid file names. It is nil when there is none, or when the number has gone to another program.
func (u *Unit) process() (*process, error) {
	text, err := os.ReadFile(u.cfg.PIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil, nil // xvp is about to write it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return nil, fmt.Errorf("%s does not hold a process id: end xvp by hand and remove the file", u.cfg.PIDFile)
	}
	handle, err := os.FindProcess(pid)
	if err != nil {
		return nil, nil // no such process
	}
	p := &process{pid: pid, handle: handle}
	if p.start, err = startTime(pid); err != nil {
		return nil, nil
	}
	program, err := filepath.EvalSymlinks(u.cfg.Program)
	if err != nil {
		return nil, fmt.Errorf("program of the console service: %w", err)
	}
	exe, err := os.Readlink(p.proc("exe"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("tell whether process %d is xvp: %w", pid, err)
	case strings.TrimSuffix(exe, " (deleted)") != program: // a package upgrade deletes the running binary
		return nil, nil
	}
	return p, nil
}

func (p *process) proc(name string) string { return filepath.Join("/proc", strconv.Itoa(p.pid), name) }

func (p *process) alive() bool {
	start, err := startTime(p.pid)
	return err == nil && start == p.start
}

func (p *process) signal(sig os.Signal) error {
	if err := p.handle.Signal(sig); err != nil {
		return fmt.Errorf("signal xvp, process %d: %w", p.pid, err)
	}
	return nil
}

// await polls listening until the context ends, or the process does.
func (p *process) await(ctx context.Context, ports []uint16, before map[string]uint16) error {
	return poll(ctx, func() error { return p.listening(ports, before) })
}

// listening is nil when the process listens on exactly these ports, by no socket of before.
func (p *process) listening(ports []uint16, before map[string]uint16) error {
	if !p.alive() {
		return &ended{p.pid}
	}
	now, err := p.sockets()
	if err != nil {
		return err
	}
	var open []uint16
	for inode, port := range now {
		if before[inode] == port {
			return fmt.Errorf("port %d has not been bound anew", port)
		}
		open = append(open, port)
	}
	if !same(open, ports) {
		return fmt.Errorf("it listens on %d ports, the configuration has %d%s", len(open), len(ports), difference(open, ports))
	}
	return nil
}

// difference names one port that is missing or one too many.
func difference(open, want []uint16) string {
	has := map[uint16]bool{}
	for _, port := range open {
		has[port] = true
	}
	for _, port := range want {
		if !has[port] {
			return fmt.Sprintf(", port %d is missing", port)
		}
		delete(has, port)
	}
	for port := range has {
		return fmt.Sprintf(", port %d is one too many", port)
	}
	return ""
}

// sockets gives the TCP sockets on which the process itself listens, by inode. xvp has IPv4 only.
func (p *process) sockets() (map[string]uint16, error) {
	entries, err := os.ReadDir(p.proc("fd"))
	if err != nil {
		return nil, fmt.Errorf("ports of xvp: %w", err)
	}
	own := map[string]bool{}
	for _, entry := range entries {
		link, err := os.Readlink(filepath.Join(p.proc("fd"), entry.Name()))
		if err != nil {
			continue // closed a moment ago
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	table, err := os.ReadFile(p.proc("net/tcp")) // of the process's own network namespace
	if err != nil {
		return nil, fmt.Errorf("ports of xvp: %w", err)
	}
	listening := map[string]uint16{}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" || !own[f[9]] { // 0A is LISTEN, the tenth field the inode
			continue
		}
		_, hexPort, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("ports of xvp: %q is no line of /proc/net/tcp", line)
		}
		listening[f[9]] = uint16(port)
	}
	return listening, nil
}

// startTime is field 22 of /proc/<pid>/stat. A zombie has none: it has ended, whoever has yet to collect it. While other threads of a zombie
// are on their way out its ports are still bound, so it counts as alive.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), ") ") // the name may hold anything
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: has an unknown form", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		if threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task")); err != nil || len(threads) < 2 {
			return 0, os.ErrProcessDone
		}
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// ephemeralPorts reads the range from which this host serves outgoing connections, and what is kept out of it.
func ephemeralPorts() (orchestrator.PortRange, []orchestrator.PortRange, error) {
	const dir = "/proc/sys/net/ipv4/"
	text, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return orchestrator.PortRange{}, nil, err
	}
	var r orchestrator.PortRange
	if _, err := fmt.Sscan(string(text), &r.First, &r.Last); err != nil {
		return r, nil, fmt.Errorf("%sip_local_port_range: %w", dir, err)
	}
	if text, err = os.ReadFile(dir + "ip_local_reserved_ports"); err != nil {
		return r, nil, err
	}
	var reserved []orchestrator.PortRange
	for _, part := range strings.Split(strings.TrimSpace(string(text)), ",") {
		if part == "" {
			continue
		}
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(errA, errB); err != nil {
			return r, nil, fmt.Errorf("%sip_local_reserved_ports: %w", dir, err)
		}
		reserved = append(reserved, orchestrator.PortRange{First: uint16(a), Last: uint16(b)})
	}
	return r, reserved, nil
}
