package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// invocation is one call of an emulated program.
type invocation struct {
	*process
	ctx    context.Context
	env    expand.Environ
	dir    string
	name   string
	args   []string // without the name
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	fresh  bool // the process is this call's own: a shell that runs in it needs no other
}

// program is an emulated program; it returns its exit code.
type program func(*invocation) int

// lookUp finds a program by its base name. Only what scripts use is here, with the options that they use.
func lookUp(name string) program {
	switch name {
	case "apt-get":
		return aptGet
	case "bash", "sh":
		return bash
	case "btrfs", "resize2fs", "xfs_growfs":
		return diskTool(growFS)
	case "cat":
		return cat
	case "chmod", "chown", "sync", "touch", "umask", "ulimit":
		return nothing
	case "curl":
		return curl
	case "date":
		return date
	case "dnf":
		return dnf
	case "dpkg":
		return nothing
	case "dpkg-query":
		return dpkgQuery
	case "findmnt":
		return diskTool(findmnt)
	case "getent":
		return getent
	case "grep":
		return grep
	case "head":
		return head
	case "hostname":
		return hostname
	case "id":
		return id
	case "kill":
		return kill
	case "ln":
		return ln
	case "lsblk":
		return diskTool(lsblk)
	case "lvextend":
		return diskTool(lvextend)
	case "lvs", "pvs", "vgs":
		return diskTool(lvmReport)
	case "mkdir":
		return mkdir
	case "mktemp":
		return mktemp
	case "mv":
		return mv
	case "partx":
		return diskTool(partx)
	case "pvresize":
		return diskTool(pvresize)
	case "readlink":
		return readlink
	case "restorecon":
		return restorecon
	case "rm":
		return rm
	case "rpm":
		return rpm
	case "setpriv":
		return setpriv
	case "setsid":
		return setsid
	case "sfdisk":
		return diskTool(sfdisk)
	case "sha256sum":
		return sha256Sum
	case "sleep":
		return sleep
	case "ssh-keygen":
		return sshKeygen
	case "sshd":
		return sshdTest
	case "sudo":
		return sudo
	case "systemctl":
		return systemctl
	case "tail":
		return tail
	case "tar":
		return untar
	case "timeout":
		return timeout
	case "uname":
		return uname
	case "useradd":
		return useradd
	case "usermod":
		return nothing
	case "visudo":
		return nothing
	case "which":
		return which
	case "zypper":
		return zypper
	}
	return nil
}

// lookUp finds a program that this guest has: the other systems' package managers are not there.
func (g *Guest) lookUp(name string) program {
	owner := map[string]string{"apt-get": "apt", "dpkg": "apt", "dpkg-query": "apt", "dnf": "dnf", "zypper": "zypper"}[name]
	if (owner != "" && owner != g.packager) || (name == "rpm" && g.packager == "apt") {
		return nil
	}
	if _, err := g.root.Stat("sys/fs/selinux"); name == "restorecon" && err != nil {
		return nil
	}
	return lookUp(name)
}

// exec is the interpreter's door to programs.
func (p *process) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	v := &invocation{
		process: p, ctx: ctx, env: hc.Env, dir: hc.Dir, name: args[0], args: args[1:],
		stdin: hc.Stdin, stdout: hc.Stdout, stderr: hc.Stderr,
	}
	code := v.run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if code != 0 {
		return interp.ExitStatus(code)
	}
	return nil
}

// run looks the program up by the name's last part: a path counts only in the folders where programs are.
func (v *invocation) run() int {
	dir, base := path.Split(v.name)
	// What somebody has put onto the disk is a program when it is a script.
	if dir != "" {
		if text, err := v.disk().ReadFile(v.path(v.name)); err == nil && strings.HasPrefix(string(text), "#!/bin/bash\n") {
			child := v.with(append([]string{"bash", v.name}, v.args...))
			return bash(child)
		}
	}
	if dir != "" && !slices.Contains([]string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/"}, dir) {
		return v.fail(exitNotFound, "No such file or directory")
	}
	program := v.guest.lookUp(base)
	if program == nil {
		return v.fail(exitNotFound, "command not found")
	}
	v.name = base
	return program(v)
}

// with is the call of another program from this one.
func (v *invocation) with(args []string) *invocation {
	other := *v
	other.name, other.args, other.fresh = args[0], args[1:], false
	return &other
}

func (v *invocation) fail(code int, format string, args ...any) int {
	fmt.Fprintf(v.stderr, "%s: %s\n", v.name, fmt.Sprintf(format, args...))
	return code
}

func (v *invocation) failWith(err error) int { return v.fail(1, "%v", err) }

func (v *invocation) path(name string) string {
	if path.IsAbs(name) {
		return rel(name)
	}
	return rel(path.Join(v.dir, name))
}

func (v *invocation) disk() *os.Root { return v.guest.root }

// operands separates options from the rest; "--" ends the options.
func operands(args []string) (options, rest []string) {
	for i, arg := range args {
		switch {
		case arg == "--":
			return options, append(rest, args[i+1:]...)
		case len(arg) > 1 && arg[0] == '-':
			options = append(options, arg)
		default:
			rest = append(rest, arg)
		}
	}
	return options, rest
}

// has looks for a short option, also among joined ones.
func has(options []string, letter string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return !strings.HasPrefix(o, "--") && strings.Contains(o, letter) })
}

// environ is what a child inherits, as NAME=value.
func (v *invocation) environ() []string {
	var env []string
	v.env.Each(func(name string, vr expand.Variable) bool {
		if vr.Exported && vr.Kind == expand.String && name != "BASH_EXECUTION_STRING" {
			env = append(env, name+"="+vr.Str)
		}
		return true
	})
	return env
}

func nothing(*invocation) int { return 0 }

// bash is `bash -c TEXT [NAME ARG...]` and `bash FILE [ARG...]`: another process of the same session.
func bash(v *invocation) int {
	s := script{name: "bash", dir: v.dir, env: v.environ(), stdout: v.stdout, stderr: v.stderr}
	s.stdin, _ = v.stdin.(*os.File)
	switch {
	case len(v.args) >= 2 && v.args[0] == "-c":
		s.text = v.args[1]
		s.env = append(s.env, "BASH_EXECUTION_STRING="+s.text)
		if len(v.args) > 2 {
			s.name, s.params = v.args[2], v.args[3:]
		}
	case len(v.args) >= 1 && !strings.HasPrefix(v.args[0], "-"):
		text, err := v.disk().ReadFile(v.path(v.args[0]))
		if err != nil {
			return v.fail(exitNotFound, "%s: %v", v.args[0], cause(err))
		}
		s.name, s.text, s.params = v.args[0], string(text), v.args[1:]
		if code := v.guest.begin(path.Base(v.args[0])); code != 0 {
			return v.fail(code, "%s fails on purpose", v.args[0])
		}
	default:
		return v.fail(exitMisuse, "only -c TEXT and FILE are simulated")
	}
	p := v.process
	if !v.fresh {
		p = v.guest.spawn(v.boot, v.process, false, "bash")
		defer v.guest.reap(p)
	}
	return p.shell(v.ctx, s)
}

// begin notes a script and asks whether it shall fail.
func (g *Guest) begin(name string) int {
	g.mu.Lock()
	g.ran = append(g.ran, name)
	decide := g.faults.Script
	g.mu.Unlock()
	if decide == nil {
		return 0
	}
	return decide(name)
}

// setpriv runs what follows "--": everybody may do everything here.
func setpriv(v *invocation) int {
	at := slices.Index(v.args, "--")
	if at < 0 || at+1 == len(v.args) {
		return v.fail(1, "only OPTION... -- PROGRAM is simulated")
	}
	return v.with(v.args[at+1:]).run()
}

// setsid runs a program in a session of its own. It outlives its caller, but not the boot.
func setsid(v *invocation) int {
	if len(v.args) == 0 {
		return v.fail(1, "no command")
	}
	p := v.guest.spawn(v.boot, v.process, true, path.Base(v.args[0]))
	defer v.guest.reap(p)
	v.boot.wg.Add(1)
	defer v.boot.wg.Done()
	child := v.with(v.args)
	child.process, child.ctx, child.fresh = p, v.boot.ctx, true
	return child.run()
}

// sudo is `sudo -n PROGRAM ARG...`: everybody is root here, and the environment is reset.
func sudo(v *invocation) int {
	if len(v.args) < 2 || v.args[0] != "-n" {
		return v.fail(1, "only -n PROGRAM is simulated")
	}
	child := v.with(v.args[1:])
	child.env = expand.ListEnviron("HOME=/root", "USER=root", "LOGNAME=root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SUDO_USER="+v.env.Get("USER").String())
	return child.run()
}

// timeout is `timeout [-k SECONDS] SECONDS PROGRAM ARG...`.
func timeout(v *invocation) int {
	args := v.args
	if len(args) > 2 && args[0] == "-k" {
		args = args[2:]
	}
	if len(args) < 2 {
		return v.fail(125, "missing operand")
	}
	limit, err := seconds(args[0])
	if err != nil {
		return v.fail(125, "invalid time interval %q", args[0])
	}
	ctx, cancel := context.WithTimeout(v.ctx, limit)
	defer cancel()
	child := v.with(args[1:])
	child.ctx = ctx
	code := child.run()
	if ctx.Err() != nil && v.ctx.Err() == nil {
		return exitTimeout
	}
	return code
}

func seconds(text string) (time.Duration, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(text, "s"), 64)
	if err != nil || f < 0 || f > 1e6 {
		return 0, fmt.Errorf("no number of seconds: %q", text)
	}
	return time.Duration(f * float64(time.Second)), nil
}

func sleep(v *invocation) int {
	if len(v.args) != 1 {
		return v.fail(1, "missing operand")
	}
	d, err := seconds(v.args[0])
	if err != nil {
		return v.failWith(err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0
	case <-v.ctx.Done():
		return exitKilled
	}
}

// kill knows the signals that scripts send: 0 asks for a process, HUP to sshd reloads it.
func kill(v *invocation) int {
	if len(v.args) == 2 && (v.args[0] == "-0" || v.args[0] == "-HUP") {
		v.guest.mu.Lock()
		pid, err := strconv.Atoi(v.args[1])
		alive := err == nil && v.boot.procs[pid] != nil
		v.guest.mu.Unlock()
		if alive {
			return 0
		}
		return v.fail(1, "(%s) - No such process", v.args[1])
	}
	return v.fail(exitMisuse, "only -0 and -HUP are simulated")
}

func which(v *invocation) int {
	_, names := operands(v.args)
	for _, name := range names {
		if v.guest.lookUp(path.Base(name)) == nil && !interp.IsBuiltin(name) {
			return 1
		}
		fmt.Fprintln(v.stdout, "/usr/bin/"+path.Base(name))
	}
	return 0
}

func uname(v *invocation) int {
	fmt.Fprintln(v.stdout, "Linux")
	return 0
}
