package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Exit codes of shells.
const (
	exitMisuse   = 2
	exitTimeout  = 124
	exitNotFound = 127
	exitKilled   = 137
)

// process is one shell of the guest; a program that a shell calls has no process of its own.
type process struct {
	pid, ppid, session int
	start              int // in ticks since the boot, for /proc
	name               string
	guest              *Guest
	boot               *boot
}

// spawn makes a process; a parent of nil, or own, gives it a session of its own.
func (g *Guest) spawn(b *boot, parent *process, own bool, name string) *process {
	g.mu.Lock()
	defer g.mu.Unlock()
	b.lastPID++
	p := &process{pid: b.lastPID, ppid: 1, session: b.lastPID, start: b.lastPID * 7, name: name, guest: g, boot: b}
	if parent != nil {
		p.ppid = parent.pid
		if !own {
			p.session = parent.session
		}
	}
	b.procs[p.pid] = p
	return p
}

func (g *Guest) reap(p *process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(p.boot.procs, p.pid)
}

// login runs a command line as sshd does: by the user's shell, in a session of its own, with a small environment.
func (g *Guest) login(b *boot, user, command string, stdin io.Reader, stdout, stderr io.Writer) int {
	in, out, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitMisuse
	}
	defer in.Close()
	// Ends with the channel, or with its reader.
	b.wg.Go(func() {
		defer out.Close()
		_, _ = io.Copy(out, stdin)
	})
	a, _ := g.account(user)
	p := g.spawn(b, nil, true, "bash")
	defer g.reap(p)
	env := []string{"HOME=" + a.home, "USER=" + user, "LOGNAME=" + user, "SHELL=/bin/bash", "PATH=/usr/local/bin:/usr/bin:/bin"}
	return p.shell(b.ctx, script{text: command, name: "bash", dir: a.home, env: env, stdin: in, stdout: stdout, stderr: stderr})
}

// script is one run of a shell.
type script struct {
	text, name     string
	params         []string
	dir            string
	env            []string
	stdin          *os.File
	stdout, stderr io.Writer
}

// shell interprets a script to its end and returns its exit code.
func (p *process) shell(ctx context.Context, s script) int {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(s.text), s.name)
	if err != nil {
		fmt.Fprintln(s.stderr, err)
		return exitMisuse
	}
	if err := refuse(file); err != nil {
		fmt.Fprintf(s.stderr, "%s: %v\n", s.name, err)
		return exitMisuse
	}
	// The interpreter's own temporary files are named pipes on this machine, made for what refuse finds and eval hides: nowhere to make them.
	env := append(slices.Clone(s.env), "TMPDIR=/proc/none")
	runner, err := interp.New(
		interp.Env(expand.ListEnviron(env...)),
		interp.Dir("/"),
		interp.StdIO(s.stdin, s.stdout, s.stderr),
		interp.CallHandler(call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return p.exec }),
		interp.OpenHandler(p.open),
		interp.ReadDirHandler2(p.readDir),
		interp.StatHandler(p.stat),
		interp.AccessHandler(p.access),
	)
	if err != nil {
		fmt.Fprintln(s.stderr, err)
		return exitMisuse
	}
	// The option looks for the folder on the machine we run on; the guest's own is meant.
	runner.Dir, runner.Params = s.dir, s.params
	err = runner.Run(ctx, file)
	var status interp.ExitStatus
	switch {
	case ctx.Err() != nil:
		return exitKilled
	case errors.As(err, &status):
		return int(status)
	case err != nil:
		fmt.Fprintf(s.stderr, "%s: %v\n", s.name, err)
		return exitMisuse
	}
	return 0
}

// refuse finds what the interpreter would do outside of the guest's disk: process substitution makes named pipes.
func refuse(file *syntax.File) error {
	var err error
	syntax.Walk(file, func(node syntax.Node) bool {
		if subst, ok := node.(*syntax.ProcSubst); ok {
			err = fmt.Errorf("line %d: process substitution is not simulated", subst.Pos().Line())
		}
		return err == nil
	})
	return err
}

// call sends to the emulated programs what the interpreter has no builtin for, or would answer from the machine we run on.
func call(_ context.Context, args []string) ([]string, error) {
	switch args[0] {
	case "umask", "kill", "ulimit":
		return append([]string{"/bin/" + args[0]}, args[1:]...), nil
	case "command", "type", "hash":
		return append([]string{"/bin/which"}, args[1:]...), nil
	}
	return args, nil
}

// abs is a path of the guest, absolute.
func abs(ctx context.Context, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(interp.HandlerCtx(ctx).Dir, name)
}

func (p *process) open(ctx context.Context, name string, flag int, perm fs.FileMode) (io.ReadWriteCloser, error) {
	name = abs(ctx, name)
	switch {
	case name == "/dev/null":
		return os.OpenFile(os.DevNull, flag, 0)
	case strings.HasPrefix(name, "/proc/"):
		text, err := p.procFile(name)
		if err != nil {
			return nil, err
		}
		return pipeWith(text)
	}
	f, err := p.guest.root.OpenFile(rel(name), flag, perm)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	return f, nil
}

// pipeWith is a file from which a short text is read: the interpreter wants a descriptor.
func pipeWith(text string) (*os.File, error) {
	const pipeBuffer = 64 << 10
	if len(text) > pipeBuffer {
		text = text[:pipeBuffer]
	}
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = out.WriteString(text)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = in.Close()
		return nil, err
	}
	return in, nil
}

func (p *process) stat(ctx context.Context, name string, follow bool) (fs.FileInfo, error) {
	name = abs(ctx, name)
	if name == "/dev/null" {
		return os.Stat(os.DevNull)
	}
	if name == "/proc" || strings.HasPrefix(name, "/proc/") {
		return p.procStat(name)
	}
	if follow {
		return p.guest.root.Stat(rel(name))
	}
	return p.guest.root.Lstat(rel(name))
}

func (p *process) access(ctx context.Context, name string, _ interp.AccessMode) error {
	_, err := p.stat(ctx, name, true)
	return err
}

func (p *process) readDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	name = abs(ctx, name)
	if name == "/proc" || strings.HasPrefix(name, "/proc/") {
		return p.procDir(name)
	}
	return fs.ReadDir(p.guest.root.FS(), rel(name))
}

// cause drops the path that os.Root put around an error.
func cause(err error) error {
	var wrapped *fs.PathError
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
