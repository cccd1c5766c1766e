package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/config"
	"slipway/internal/demo"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/sim/xapi"
	"slipway/workers/queue"
)

// TestScripts runs the verbs as an operator types them, each script against a worker of its own on a site of simulators.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			s, err := newSite(t, env)
			if err != nil {
				return err
			}
			env.Values[siteKey{}] = s
			env.Setenv("CONFIG", s.site.Path)
			env.Setenv("SITE", filepath.Dir(s.site.Path))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"slipway": verb, "code": code, "json": isJSON, "fault": fault, "publish": publish, "setvar": setvar, "clean": clean0, "until": until,
			"replace": replace, "stranger": stranger, "occupy": occupy, "vary": vary,
		},
	})
}

type siteKey struct{}

// site is a worker with its world.
type site struct {
	site   *demo.Site
	worker *service.Service
	code   int // of the last verb
	mu     sync.Mutex
	said   bytes.Buffer // everything: the worker's log, and what the verbs printed
}

func (s *site) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(p)
}

func newSite(t *testing.T, env *testscript.Env) (_ *site, err error) {
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	env.Defer(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &site{}
	log := slog.New(slog.NewJSONHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, stop := context.WithCancel(context.Background())
	if s.site, err = demo.NewSite(ctx, dir, 1, 1, slog.New(slog.DiscardHandler)); err != nil {
		stop()
		return nil, err
	}
	s.site.Config.Guard = config.Guard{Window: time.Hour, Uninstalls: 1}
	if s.worker, err = service.New(ctx, s.site.Config, service.Options{Log: log, Dial: s.site.Dial}); err != nil {
		s.site.Close()
		stop()
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- s.worker.Run(ctx) }()
	env.Defer(func() {
		secrets, err := s.secrets(context.Background())
		if err != nil {
			t.Error(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		s.worker.Close()
		s.site.Close()
		for what, secret := range secrets {
			if strings.Contains(s.said.String(), secret) {
				t.Errorf("%s stands in a log or an answer", what)
			}
		}
	})
	return s, listens(s.site.Config.Socket)
}

// listens waits until serve takes operators in.
func listens(socket string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		<-tick.C
	}
	return fmt.Errorf("nobody listens on %s", socket)
}

// secrets are all that nobody may read: the site's own, and those of its machines.
func (s *site) secrets(ctx context.Context) (map[string]string, error) {
	found := map[string]string{"a private key": "PRIVATE KEY"}
	dir := filepath.Dir(s.site.Path)
	for _, pattern := range []string{"*.key", "*.password"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				if !strings.HasPrefix(line, "-----") {
					found[fmt.Sprintf("line %d of %s", i+1, filepath.Base(path))] = line
				}
			}
		}
	}
	machines, err := s.worker.Store.Machines(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		for name, sealed := range map[string]orchestrator.Sealed{orchestrator.SealedConsole: m.ConsolePassword, orchestrator.SealedHostKey: m.HostKeySecret} {
			if len(sealed) == 0 { // an imported machine's host key is its own
				continue
			}
			secret, err := s.worker.Vault.Open(m.ID, name, sealed)
			if err != nil {
				return nil, err
			}
			text := secret.Reveal()
			if lines := strings.Split(text, "\n"); len(lines) > 2 {
				text = lines[1]
			}
			found[name+" of "+m.Name] = text
		}
	}
	if len(found) < 5 {
		return nil, fmt.Errorf("only %d secrets were found to look for", len(found))
	}
	return found, nil
}

func of(ts *testscript.TestScript) *site { return ts.Value(siteKey{}).(*site) }

// verb is the command line, in this process.
func verb(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, arg := range args {
		if strings.HasPrefix(arg, "@") { // a file of the script
			args[i] = ts.MkAbs(arg[1:])
		}
	}
	stdout, stderr := io.MultiWriter(ts.Stdout(), s), io.MultiWriter(ts.Stderr(), s)
	s.code = run(ctx, append([]string{"--config", ts.Getenv("CONFIG")}, args...), strings.NewReader(""), stdout, stderr)
	if (s.code != 0) != neg {
		ts.Fatalf("slipway %s ended with %d", strings.Join(args, " "), s.code)
	}
}

// code checks the last verb's exit code.
func code(ts *testscript.TestScript, _ bool, args []string) {
	if want := args[0]; strconv.Itoa(of(ts).code) != want {
		ts.Fatalf("exit code %d, want %s", of(ts).code, want)
	}
}

// isJSON checks that the last verb printed JSON values only.
func isJSON(ts *testscript.TestScript, _ bool, _ []string) {
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	values := 0
	for ; ; values++ {
		var v any
		if err := decoder.Decode(&v); err == io.EOF {
			break
		} else if err != nil {
			ts.Fatalf("not JSON: %v", err)
		}
	}
	if values == 0 {
		ts.Fatalf("nothing was printed")
	}
}

// fault makes the next call of a XenAPI method fail: METHOD CODE [TIMES].
func fault(ts *testscript.TestScript, _ bool, args []string) {
	times := 1
	if len(args) > 2 {
		times, _ = strconv.Atoi(args[2]) // 0 is for ever
	}
	ts.Check(of(ts).site.Fault(0, xapi.Fault{Method: args[0], Times: times, Error: []string{args[1], "OpaqueRef:NULL", "maintenance"}}))
}

// publish puts a file into the queue as an order, as a panel does.
func publish(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(of(ts).worker.Queue.PublishOrder(context.Background(), queue.Message{ID: args[0], Type: "slipway.order.install", Body: []byte(ts.ReadFile(args[0]))}))
}

// setvar keeps the first match of a JSON key in the last output: NAME KEY.
func setvar(ts *testscript.TestScript, _ bool, args []string) {
	_, rest, ok := strings.Cut(ts.ReadFile("stdout"), `"`+args[1]+`": "`)
	value, _, closed := strings.Cut(rest, `"`)
	if !ok || !closed {
		ts.Fatalf("no %s in the output", args[1])
	}
	ts.Setenv(args[0], value)
}

// clean0 counts the world: it holds what the store says, and so many VMs.
func clean0(ts *testscript.TestScript, _ bool, _ []string) {
	report, err := of(ts).site.Audit(context.Background(), of(ts).worker)
	ts.Check(err)
	if !report.Clean() {
		ts.Fatalf("%+v", report)
	}
}

// until runs a verb until its output has a text: TEXT VERB….
func until(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 600 {
		var out bytes.Buffer
		run(context.Background(), append([]string{"--config", ts.Getenv("CONFIG")}, args[1:]...), strings.NewReader(""), &out, io.Discard)
		if strings.Contains(out.String(), args[0]) {
			return
		}
		<-tick.C
	}
	ts.Fatalf("slipway %s never printed %q", strings.Join(args[1:], " "), args[0])
}
