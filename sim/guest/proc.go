package guest

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// holderPID is the process that HoldPackageLock makes up, and the descriptor that it has the lock on.
const (
	holderPID = 212
	holderFD  = "7"
)

const dpkgLock = "/var/lib/dpkg/lock-frontend"

// procFile is the text of a file in /proc, as far as scripts look there.
func (p *process) procFile(name string) (string, error) {
	g := p.guest
	g.mu.Lock()
	defer g.mu.Unlock()
	missing := &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	switch name {
	case "/proc/sys/kernel/random/boot_id":
		return p.boot.id + "\n", nil
	case "/proc/locks":
		if g.holder == "" {
			return "", nil
		}
		return fmt.Sprintf("1: POSIX  ADVISORY  WRITE %d fe:01:4711 0 EOF\n", holderPID), nil
	}
	pid, file, _ := strings.Cut(strings.TrimPrefix(name, "/proc/"), "/")
	number, err := strconv.Atoi(pid)
	if pid == "self" {
		number, err = p.pid, nil
	}
	if err != nil {
		return "", missing
	}
	if number == holderPID && g.holder != "" && file == "comm" {
		return g.holder + "\n", nil
	}
	q := p.boot.procs[number]
	if q == nil {
		return "", missing
	}
	switch file {
	case "comm":
		return q.name + "\n", nil
	case "stat":
		// The 22nd field is the start time; those between are not looked at.
		return fmt.Sprintf("%d (%s) S %d %d %d%s %d 0 0\n", q.pid, q.name, q.ppid, q.session, q.session, strings.Repeat(" 0", 15), q.start), nil
	}
	return "", missing
}

// procDir lists the processes, or the open files of the one that holds the package lock.
func (p *process) procDir(name string) ([]fs.DirEntry, error) {
	g := p.guest
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	switch name {
	case "/proc":
		for pid := range p.boot.procs {
			names = append(names, strconv.Itoa(pid))
		}
		if g.holder != "" {
			names = append(names, strconv.Itoa(holderPID))
		}
	case fmt.Sprintf("/proc/%d/fd", holderPID):
		if g.holder != "" {
			names = append(names, holderFD)
		}
	default:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	slices.Sort(names)
	var entries []fs.DirEntry
	for _, n := range names {
		entries = append(entries, fs.FileInfoToDirEntry(procInfo{name: n, dir: name == "/proc"}))
	}
	return entries, nil
}

func (p *process) procStat(name string) (fs.FileInfo, error) {
	if name == "/proc" {
		return procInfo{name: "proc", dir: true}, nil
	}
	if _, err := p.procFile(name); err == nil {
		return procInfo{name: path.Base(name)}, nil
	}
	if _, err := p.procDir(name); err == nil {
		return procInfo{name: path.Base(name), dir: true}, nil
	}
	if number, err := strconv.Atoi(strings.TrimPrefix(name, "/proc/")); err == nil {
		p.guest.mu.Lock()
		defer p.guest.mu.Unlock()
		if p.boot.procs[number] != nil || (number == holderPID && p.guest.holder != "") {
			return procInfo{name: path.Base(name), dir: true}, nil
		}
	}
	if name == fmt.Sprintf("/proc/%d/fd/%s", holderPID, holderFD) {
		return procInfo{name: holderFD}, nil
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// procInfo is a file of /proc.
type procInfo struct {
	name string
	dir  bool
}

func (i procInfo) Name() string     { return i.name }
func (procInfo) Size() int64        { return 0 }
func (procInfo) ModTime() time.Time { return time.Time{} }
func (i procInfo) IsDir() bool      { return i.dir }
func (procInfo) Sys() any           { return nil }
func (i procInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
