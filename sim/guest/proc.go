package guest

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// holderPID is the process that HoldPackageLock makes up, and the descriptor that it has the lock on.
const (
	holderPID    = 212
	holderFolder = "/proc/212/fd"
	holderFD     = "7"
)

const dpkgLock = "/var/lib/dpkg/lock-frontend"

// pidLock is the file into which a package manager writes its pid, "" for one that locks records.
func pidLock(packager string) string {
	switch packager {
	case "dnf":
		return "/var/lib/dnf/rpmdb_lock.pid"
	case "zypper":
		return "/run/zypp.pid"
	}
	return ""
}

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
		if g.holder == "" || pidLock(g.packager) != "" {
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

// procDir lists a folder of /proc; of a file it says that it is none.
func (p *process) procDir(name string) ([]fs.DirEntry, error) {
	g := p.guest
	g.mu.Lock()
	var names []string
	number, err := strconv.Atoi(strings.TrimPrefix(name, "/proc/"))
	held := g.holder != ""
	switch {
	case name == "/proc":
		for pid := range p.boot.procs {
			names = append(names, strconv.Itoa(pid))
		}
		if held {
			names = append(names, strconv.Itoa(holderPID))
		}
	case held && name == holderFolder:
		names = []string{holderFD}
	case err == nil && held && number == holderPID:
		names = []string{"comm", "fd"}
	case err == nil && p.boot.procs[number] != nil:
		names = []string{"comm", "stat"}
	}
	g.mu.Unlock()
	if names == nil {
		var err error = fs.ErrNotExist
		if _, statErr := p.procStat(name); statErr == nil {
			err = syscall.ENOTDIR
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	slices.Sort(names)
	var entries []fs.DirEntry
	for _, n := range names {
		entries = append(entries, fs.FileInfoToDirEntry(procInfo{name: n, dir: name == "/proc" || n == "fd"}))
	}
	return entries, nil
}

func (p *process) procStat(name string) (fs.FileInfo, error) {
	if _, err := p.procFile(name); err == nil || name == holderFolder+"/"+holderFD {
		return procInfo{name: path.Base(name)}, nil
	}
	if name != "/proc" {
		// A folder is listed by the one above it.
		parent, err := p.procDir(path.Dir(name))
		if err != nil || !slices.ContainsFunc(parent, func(e fs.DirEntry) bool { return e.Name() == path.Base(name) }) {
			return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		}
	}
	return procInfo{name: path.Base(name), dir: true}, nil
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
