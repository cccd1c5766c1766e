package xvp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
	sim "slipway/sim/xvp"
	"slipway/workers/appliance/agent"
	"slipway/workers/console/rfb"
	"slipway/workers/console/xvp"
)

const (
	beXVP   = "SLIPWAY_TEST_BE_XVP" // makes the test binary the stand-in
	realVar = "SLIPWAY_TEST_XVP"    // names a real xvp, on which the same tests run then
)

func TestMain(m *testing.M) {
	if os.Getenv(beXVP) == "1" {
		os.Exit(sim.Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// onEach runs a test on the stand-in, as a process of its own, and on the real xvp where there is one.
func onEach(t *testing.T, test func(*testing.T, *host)) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{"stand-in": self}
	if program := os.Getenv(realVar); program != "" {
		programs["xvp"] = program
	}
	t.Setenv(beXVP, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // the parent of a daemon ends at once
	for name, program := range programs {
		t.Run(name, func(t *testing.T) { test(t, newHost(t, program)) })
	}
}

// host is an xvp host: the site's main file, ours, and the unit that an agent would drive.
type host struct {
	t    *testing.T
	dir  string
	cfg  xvp.UnitConfig
	unit *xvp.Unit
	port uint16 // the next free one
}

func newHost(t *testing.T, program string) *host {
	dir := t.TempDir()
	h := &host{t: t, dir: dir, port: uint16(12000 + rand.IntN(18000))} // outside the ephemeral range, 32768 to 60999
	h.cfg = xvp.UnitConfig{
		Target: filepath.Join(dir, "slipway.conf"), Main: filepath.Join(dir, "xvp.conf"),
		Program: program, PIDFile: filepath.Join(dir, "xvp.pid"), Timeout: 10 * time.Second,
	}
	h.cfg.Start = []string{program, "-c", h.cfg.Main, "-p", h.cfg.PIDFile, "-l", filepath.Join(dir, "xvp.log")}
	h.cfg = h.build(h.cfg)
	h.site("")
	h.write(h.cfg.Target, "")
	t.Cleanup(h.kill)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(dir, "xvp.log")); err == nil && t.Failed() {
			t.Logf("log of xvp:\n%s", log)
		}
	})
	return h
}

func (h *host) build(cfg xvp.UnitConfig) xvp.UnitConfig {
	h.t.Helper()
	var err error
	if h.unit, err = xvp.NewUnit(cfg); err != nil {
		h.t.Fatal(err)
	}
	return cfg
}

func (h *host) write(path, text string) {
	h.t.Helper()
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		h.t.Fatal(err)
	}
}

// site writes the site's own file, which includes ours at its end.
func (h *host) site(text string) string {
	text += fmt.Sprintf("INCLUDE \"%s\"\n", h.cfg.Target)
	h.write(h.cfg.Main, text)
	return text
}

func (h *host) read(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// free is a port that nothing listens on.
func (h *host) free() uint16 {
	h.t.Helper()
	for range 1000 {
		h.port++
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", h.port))
		if err == nil {
			_ = l.Close()
			return h.port
		}
	}
	h.t.Fatal("no free port")
	return 0
}

// ours is a text as Render makes them: the marker is its first line.
func ours(text string) string { return xvp.Marker + "\n" + text }

func pool(name string, lines ...string) string {
	return "POOL " + name + "\n DOMAIN \"\"\n MANAGER xvp de423b8ea2bc007494f43d47a87410fa\n HOST 127.0.0.1 h\n" + strings.Join(lines, "")
}

func (h *host) vm(port uint16, n int, password string) string {
	h.t.Helper()
	text, err := xvp.EncryptVNC(orchestrator.NewSecret(password))
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf(" VM %d 11111111-2222-3333-4444-%012d %s\n", port, n, text)
}

func (h *host) check(text string) error {
	h.t.Helper()
	dir := h.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, xvp.FileName), []byte(ours(text)), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return h.unit.Check(h.t.Context(), dir)
}

// apply does what an agent does with a good request.
func (h *host) apply(text string) {
	h.t.Helper()
	if err := h.check(text); err != nil {
		h.t.Fatalf("check: %v", err)
	}
	h.write(h.cfg.Target, ours(text))
	h.live()
}

func (h *host) live() {
	h.t.Helper()
	if err := h.unit.Reload(h.t.Context(), agent.Change{}); err != nil {
		h.t.Fatalf("reload: %v", err)
	}
	if err := h.unit.Prove(h.t.Context()); err != nil {
		h.t.Fatalf("prove: %v", err)
	}
}

// pid is that of the live xvp, 0 when there is none.
func (h *host) pid() int {
	text, err := os.ReadFile(h.cfg.PIDFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !running(pid) {
		return 0
	}
	return pid
}

// running is true while any thread is left: until then the ports are bound.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && (len(threads) > 1 || !strings.Contains(string(stat), ") Z "))
}

func (h *host) kill() {
	pid := h.pid()
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	h.await("xvp to end", func() bool { return !running(pid) })
}

func (h *host) await(what string, fact func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-deadline.C:
			h.t.Fatalf("waited 10 s for %s", what)
		case <-tick.C:
		}
	}
}

func (h *host) dial(port uint16) net.Conn {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// answers checks who may in on a port.
func (h *host) answers(port uint16, password string, want bool) {
	h.t.Helper()
	_, err := rfb.Authenticate(h.t.Context(), h.dial(port), orchestrator.NewSecret(password))
	if want && err != nil || !want && !errors.Is(err, rfb.ErrRefused) {
		h.t.Errorf("port %d with %q: got %v, want in: %v", port, password, err, want)
	}
}

func (h *host) closed(port uint16) {
	h.t.Helper()
	if conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second); err == nil {
		_ = conn.Close()
		h.t.Errorf("port %d still answers", port)
	}
}

func TestConsolesComeAndGo(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		foreign, a, b := h.free(), h.free(), h.free()
		main := h.site("# ours since 2009\nOTP DENY\n\n" + pool(`"The Site's own"`, fmt.Sprintf(" VM %d \"web server\" ed1a6fce37775acd # keep\n", foreign)))
		h.live() // nothing of ours yet
		first := h.pid()
		h.answers(foreign, "password", true)

		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		h.answers(a, "right", true)
		h.answers(a, "wrong", false)
		h.apply(pool("slipway-a", h.vm(a, 1, "right"), h.vm(b, 2, "other")))
		h.answers(b, "other", true)
		h.apply(pool("slipway-a", h.vm(b, 2, "changed")))
		h.closed(a)
		h.answers(b, "other", false)
		h.answers(b, "changed", true)
		if h.pid() != first {
			t.Error("xvp was restarted for a change that it can re-read")
		}

		h.apply("# none\n") // the last of ours; the site's stay
		h.closed(b)
		h.answers(foreign, "password", true)
		if got := h.read(h.cfg.Main); got != main {
			t.Errorf("the site's file was changed:\n%s", got)
		}

		h.write(h.cfg.Main, fmt.Sprintf("INCLUDE %s\n", h.cfg.Target))
		h.live() // the very last
		if h.pid() != 0 {
			t.Error("xvp runs without a console")
		}
		h.closed(foreign)
		h.apply(pool("slipway-a", h.vm(a, 1, "again")))
		h.answers(a, "again", true)
	})
}

func TestSessionsGoOn(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		a, b := h.free(), h.free()
		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		open := h.dial(a)
		greeting := make([]byte, 12)
		if _, err := io.ReadFull(open, greeting); err != nil {
			t.Fatal(err)
		}
		h.apply(pool("slipway-b", h.vm(b, 2, "other"))) // not even the machine of the session is left
		h.closed(a)
		if _, err := rfb.Authenticate(t.Context(), &resumed{Conn: open, seen: greeting}, orchestrator.NewSecret("right")); err != nil {
			t.Errorf("the session that was open: %v", err)
		}
	})
}

// resumed gives the bytes that were read already once more.
type resumed struct {
	net.Conn
	seen []byte
}

func (r *resumed) Read(p []byte) (int, error) {
	if len(r.seen) > 0 {
		n := copy(p, r.seen)
		r.seen = r.seen[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

func TestBadCandidate(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		foreign, a, b := h.free(), h.free(), h.free()
		h.write(h.cfg.Main, fmt.Sprintf("INCLUDE %s\n", h.cfg.Target)+pool("site", fmt.Sprintf(" VM %d x ed1a6fce37775acd\n", foreign)))
		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		first := h.pid()
		for name, tc := range map[string]struct {
			text string
			line int
		}{
			"syntax":             {pool("slipway-a", h.vm(a, 1, "right"), " VN 1\n"), 7},
			"port of the site":   {pool("slipway-a", h.vm(a, 1, "right"), h.vm(foreign, 2, "x")), 7},
			"pool of the site":   {pool("slipway-a", h.vm(a, 1, "right")) + pool("site", h.vm(b, 2, "x")), 7},
			"ephemeral port":     {pool("slipway-a", h.vm(a, 1, "right"), h.vm(40000, 2, "x")), 7},
			"no VM left in pool": {pool("slipway-a"), 0}, // seen where the site's begins
		} {
			t.Run(name, func(t *testing.T) {
				var fault *agent.Fault
				err := h.check(tc.text)
				if !errors.As(err, &fault) {
					t.Fatalf("got %v, want a fault", err)
				}
				if fault.File != xvp.FileName || fault.Line != tc.line || fault.Message == "" {
					t.Errorf("got %+v, want line %d", fault, tc.line)
				}
			})
		}
		if h.pid() != first {
			t.Error("a check touched xvp")
		}
		h.answers(a, "right", true)
		if err := h.unit.Prove(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestABrokenFileIsNotSignalled(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		a := h.free()
		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		first := h.pid()
		h.site("POOL half\n") // the site's hand, after our check
		if err := h.unit.Reload(t.Context(), agent.Change{}); err == nil || !strings.Contains(err.Error(), "not signalled") {
			t.Errorf("reload: %v", err)
		}
		if h.pid() != first {
			t.Fatal("xvp has ended")
		}
		h.answers(a, "right", true)
		var fault *agent.Fault
		if err := h.check(pool("slipway-a", h.vm(a, 1, "right"))); err == nil || errors.As(err, &fault) {
			t.Errorf("check gave %v: no row is at fault for the site's file", err)
		}
	})
}

// A port that another program took in the meantime ends xvp; the old text makes it live again.
func TestAPortThatCannotBeBound(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		a, b := h.free(), h.free()
		old := pool("slipway-a", h.vm(a, 1, "right"))
		h.apply(old)
		taken, err := net.Listen("tcp4", fmt.Sprintf(":%d", b))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		h.write(h.cfg.Target, ours(old+h.vm(b, 2, "x")))
		start := time.Now()
		if err := h.unit.Reload(t.Context(), agent.Change{}); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Fatalf("reload: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %s to see that xvp has ended", took)
		}
		if err := h.unit.Prove(t.Context()); err == nil {
			t.Error("prove passes without xvp")
		}
		h.write(h.cfg.Target, ours(old))
		if err := h.unit.Reload(t.Context(), agent.Change{Restoring: true}); err != nil {
			t.Fatal(err)
		}
		if err := h.unit.Prove(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.answers(a, "right", true)
	})
}

func TestProveSeesWhatRuns(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		a := h.free()
		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		fails := func(why, want string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := h.unit.Prove(ctx); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: prove gave %v, want %q", why, err, want)
			}
		}
		// The agent was killed between the swap and the reload: every port is right and the text is not live.
		h.write(h.cfg.Target, ours(pool("slipway-a", h.vm(a, 1, "changed"))))
		fails("a text that was never read", "was not made to read")
		h.live()
		h.answers(a, "changed", true)

		h.write(h.cfg.Main, h.read(h.cfg.Main)+"# edited\n")
		fails("an edit of the site's", "was not made to read")
		h.live()

		h.kill()
		fails("killed", "does not run")
		h.live()

		h.kill()
		if out, err := exec.Command(h.cfg.Start[0], h.cfg.Start[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		h.await("another hand's start", func() bool { return h.pid() != 0 })
		fails("started by another hand", "was not made to read")
		h.live()

		h.write(h.cfg.Target, "")
		fails("no console left", "though no console is configured")
	})
}

// The number in a pid file that xvp left behind may belong to anybody by now.
func TestAnotherProgramIsNeverSignalled(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		bystander := exec.Command("sleep", "600")
		if err := bystander.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- bystander.Wait() }()
		t.Cleanup(func() {
			_ = bystander.Process.Kill()
			<-ended
		})
		h.write(h.cfg.PIDFile, strconv.Itoa(bystander.Process.Pid)+"\n")
		h.apply("# none\n") // would stop xvp
		a := h.free()
		h.apply(pool("slipway-a", h.vm(a, 1, "right"))) // would signal it
		h.answers(a, "right", true)
		if h.pid() == bystander.Process.Pid || !running(bystander.Process.Pid) {
			t.Error("the bystander was taken for xvp")
		}
	})
}

func TestMainMustIncludeOurs(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		h.write(h.cfg.Main, pool("site", " VM 5900 x ed1a6fce37775acd\n"))
		err := h.check("")
		var fault *agent.Fault
		if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), `add the line INCLUDE "`+h.cfg.Target+`"`) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOneFileAlone(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		cfg := h.cfg
		cfg.Main, cfg.Start = "", []string{cfg.Program, "-c", cfg.Target, "-p", cfg.PIDFile, "-l", filepath.Join(h.dir, "xvp.log")}
		h.build(cfg)
		a := h.free()
		h.apply(pool("slipway-a", h.vm(a, 1, "right")))
		h.answers(a, "right", true)
		if err := os.Remove(h.cfg.Target); err != nil { // put back to before the first apply
			t.Fatal(err)
		}
		h.live()
		if h.pid() != 0 {
			t.Error("xvp runs without a file")
		}
	})
}

// Pools that were there before us are not written over, even when the configuration says that their file is ours.
func TestAForeignFileIsLeftAlone(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		h.write(h.cfg.Target, pool("site", " VM 5900 x ed1a6fce37775acd\n"))
		err := h.check("")
		var fault *agent.Fault
		if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), "not written by slipway") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCountRows(t *testing.T) {
	var counter agent.RowCounter = &xvp.Unit{}
	two := pool("a", " VM 5900 x ed1a6fce37775acd\n") + pool("b", " VM 5901 x ed1a6fce37775acd\n")
	for text, want := range map[string]int{two: 2, ours(""): 0, "": 0, "POOL a\n": -1} {
		if got := counter.CountRows(map[string][]byte{xvp.FileName: []byte(text)}); got != want {
			t.Errorf("%q: %d rows, want %d", text, got, want)
		}
	}
	if got := counter.CountRows(nil); got != 0 {
		t.Errorf("no file: %d rows", got)
	}
}

func TestStartThatFails(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unit, err := xvp.NewUnit(xvp.UnitConfig{
		Target:  write("slipway.conf", pool("a", " VM 21001 11111111-2222-3333-4444-555555555501 daaaa96228e23a45\n")),
		Program: "/bin/false", PIDFile: filepath.Join(dir, "pid"), Start: []string{"/bin/sh", "-c", "echo no such unit >&2; exit 5"}, Timeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unit.Reload(t.Context(), agent.Change{}); err == nil || !strings.Contains(err.Error(), "exit status 5: no such unit") {
		t.Errorf("got %v", err)
	}
}

func TestServiceNone(t *testing.T) {
	dir := t.TempDir()
	unit, err := xvp.NewUnit(xvp.UnitConfig{Target: filepath.Join(dir, "xvp.conf"), Service: xvp.ServiceNone})
	if err != nil {
		t.Fatal(err)
	}
	target := unit.Targets()[xvp.FileName]
	if len(unit.Targets()) != 1 || target.Path != filepath.Join(dir, "xvp.conf") || target.Mode != 0o600 {
		t.Fatalf("targets: %v", unit.Targets())
	}
	good := pool("a", " VM 40000 11111111-2222-3333-4444-555555555501 daaaa96228e23a45\n") // no kernel is asked here
	for _, text := range []string{ours(good), ours(""), ours("POOL a\n")} {
		if err := os.WriteFile(target.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		check, reload, prove := unit.Check(t.Context(), dir), unit.Reload(t.Context(), agent.Change{}), unit.Prove(t.Context())
		if bad := text == ours("POOL a\n"); bad != (check != nil) || bad != (reload != nil) || bad != (prove != nil) {
			t.Errorf("%q: check %v, reload %v, prove %v", text, check, reload, prove)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("something was written beside the file: %v, %v", entries, err)
	}
}

func TestNewUnitRefuses(t *testing.T) {
	for name, cfg := range map[string]xvp.UnitConfig{
		"no target":        {},
		"relative target":  {Target: "xvp.conf"},
		"relative main":    {Target: "/etc/x", Main: "xvp.conf"},
		"quote in target":  {Target: `/etc/a"b`},
		"unclean main":     {Target: "/etc/x", Main: "/etc/../xvp.conf"},
		"relative program": {Target: "/etc/x", Program: "xvp"},
		"service":          {Target: "/etc/x", Service: "systemd"},
	} {
		if _, err := xvp.NewUnit(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
