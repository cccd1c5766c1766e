package carrier_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/testserver"
	"slipway/workers/appliance"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
)

// The test binary is also the far side: with farVar set it is the program behind the forced command, which behaves as the word says.
const (
	farVar = "SLIPWAY_TEST_FAR_SIDE"
	dirVar = "SLIPWAY_TEST_FAR_DIR"
)

var (
	_ appliance.Carrier = carrier.Local{}
	_ appliance.Carrier = carrier.Exec{}
	_ appliance.Carrier = (*carrier.SSH)(nil)
	_ appliance.Carrier = (*carrier.Queue)(nil)
)

func TestMain(m *testing.M) {
	if word := os.Getenv(farVar); word != "" {
		os.Exit(far(word, os.Getenv(dirVar)))
	}
	testserver.Main(m)
}

func far(word, dir string) int {
	if err := os.WriteFile(filepath.Join(dir, "asked"), []byte(os.Getenv("SSH_ORIGINAL_COMMAND")), 0o600); err != nil {
		return 9
	}
	switch word {
	case "agent":
		a, err := newAgent(dir)
		if err == nil {
			err = a.Serve(context.Background(), os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	case "listens":
		if err := listen(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	case "leaves a child":
		cmd := exec.Command("sleep", "20")
		cmd.Stdout = os.Stdout
		if cmd.Start() != nil {
			return 9
		}
		fmt.Println(`{"code":"applied","generation":1,"sha256":"","rows":0,"reloaded":true}`)
		if os.WriteFile(filepath.Join(dir, "left"), fmt.Append(nil, cmd.Process.Pid), 0o600) != nil {
			return 9
		}
	case "falls over":
		fmt.Fprintln(os.Stderr, "panic: \x1b[31moops")
		return 2
	case "is not there":
		fmt.Fprintln(os.Stderr, "slipway: command not found")
		return 127
	case "is killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "talks":
		fmt.Println("Welcome to appliance 7")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "invents":
		fmt.Println(`{"code":"splendid"}`)
	case "shouts":
		fmt.Printf(`{"code":"applied","message":"%s"}`, strings.Repeat("x", 2<<20))
	case "escapes":
		fmt.Println(`{"code":"broken","message":"a\u001b[2Jb\nc"}`)
	case "waits":
		_, _ = io.Copy(io.Discard, os.Stdin)
		if os.WriteFile(filepath.Join(dir, "left"), fmt.Append(nil, os.Getpid()), 0o600) != nil {
			return 9
		}
		time.Sleep(time.Minute) // until it is killed; the far side is no test
	}
	return 0
}

// plain is a unit without a service: an agent of its own tests it with one.
type plain struct{ dir string }

func (p plain) Targets() map[string]agent.Target {
	return map[string]agent.Target{"hosts.conf": {Path: filepath.Join(p.dir, "hosts.conf")}}
}

func (plain) Check(_ context.Context, dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "hosts.conf"))
	if strings.Contains(string(text), "bad") {
		return &agent.Fault{File: "hosts.conf", Line: 1, Message: "bad"}
	}
	return err
}

// Reload hangs as long as there is a file hold, and notes every call.
func (p plain) Reload(ctx context.Context, _ agent.Change) error {
	f, err := os.OpenFile(filepath.Join(p.dir, "reloads"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, _ = f.WriteString("reload\n")
	if err := f.Close(); err != nil {
		return err
	}
	for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) { // the far side is no test
		if _, err := os.Stat(filepath.Join(p.dir, "hold")); err != nil {
			return nil
		}
	}
	return ctx.Err()
}

func (plain) Prove(context.Context) error { return nil }

func newAgent(dir string) (*agent.Agent, error) {
	registry := agent.Registry{"plain": func(agent.Settings) (agent.Unit, error) { return plain{dir}, nil }}
	return agent.New(agent.Config{StateDir: filepath.Join(dir, "state"), Units: map[string]agent.Settings{"dhcp": {Driver: "plain"}}}, registry, nil)
}

func request(text string) apply.Request {
	files := []apply.File{{Name: "hosts.conf", Content: text}}
	return apply.Request{Unit: "dhcp", Fence: 1, Generation: 1, Files: files, SHA256: apply.Sum(files), Rows: 1}
}

// exchanges is what every carrier does with a real agent behind it.
func exchanges(t *testing.T, c appliance.Carrier, dir string) {
	t.Helper()
	for _, tc := range []struct {
		text string
		want apply.Code
	}{{"bad\n", apply.Culprit}, {strings.Repeat("a line of eighteen\n", 100_000), apply.Applied}, {strings.Repeat("a line of eighteen\n", 100_000), apply.Unchanged}} {
		req := request(tc.text)
		answer, err := c.Apply(t.Context(), req)
		if err != nil || answer.Code != tc.want {
			t.Fatalf("%+v, %v, want %s", answer, err, tc.want)
		}
		if tc.want == apply.Culprit {
			if answer.File != "hosts.conf" || answer.Line != 1 {
				t.Errorf("%+v", answer)
			}
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dir, "hosts.conf")); err != nil || string(text) != tc.text || answer.SHA256 != req.SHA256 {
			t.Errorf("%d bytes at the far side, %v, %+v", len(text), err, answer)
		}
	}
	// What is read back is longer than other answers may be.
	answer, err := c.Apply(t.Context(), apply.Request{Unit: "dhcp", ReadOnly: true})
	if err != nil || answer.Code != apply.Observed || len(answer.Live.Files) != 1 || answer.Live.Files[0].Content != strings.Repeat("a line of eighteen\n", 100_000) {
		t.Errorf("read-only: %v, code %s", err, answer.Code)
	}
}

func TestLocal(t *testing.T) {
	dir := t.TempDir()
	a, err := newAgent(dir)
	if err != nil {
		t.Fatal(err)
	}
	exchanges(t, carrier.Local{Agent: a}, dir)
}

func farArgv(t *testing.T, word, dir string) []string {
	t.Helper()
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", farVar + "=" + word, dirVar + "=" + dir, program}
}

func TestExec(t *testing.T) {
	dir := t.TempDir()
	exchanges(t, carrier.Exec{Argv: farArgv(t, "agent", dir)}, dir)
	for _, tc := range failures {
		t.Run(tc.word, func(t *testing.T) {
			answer, err := carrier.Exec{Argv: farArgv(t, tc.word, t.TempDir())}.Apply(t.Context(), request("x\n"))
			tc.judge(t, answer, err)
		})
	}
	t.Run("no program", func(t *testing.T) {
		_, err := carrier.Exec{Argv: []string{"/nowhere/slipway"}}.Apply(t.Context(), request("x\n"))
		failure{kind: "permanent", says: "/nowhere/slipway"}.judge(t, apply.Answer{}, err)
	})
	t.Run("too slow", func(t *testing.T) {
		c := carrier.Exec{Argv: farArgv(t, "waits", t.TempDir()), Timeout: 200 * time.Millisecond}
		_, err := c.Apply(t.Context(), request("x\n"))
		failure{kind: "unknown"}.judge(t, apply.Answer{}, err)
	})
}
