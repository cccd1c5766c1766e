package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/audit"
	"slipway/internal/demo"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// hostile is text that would drive a terminal: it clears the screen, sets the title, and starts a line of its own.
const hostile = "\x1b[2J\x1b]0;owned\x07\u009b31m\r\nfake line\u2028\u202e\u2066\U000e0041"

// fakeServe answers every verb with hostile text in every field.
func fakeServe(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	socket = filepath.Join(dir, "s")
	run := api.Run{Machine: hostile, Run: hostile, Tenant: hostile, Name: hostile, Process: hostile, State: hostile, Status: "done", Reason: hostile, Pool: hostile,
		Private: hostile, Public: hostile, Created: time.Now(), Updated: time.Now()}
	answers := map[string]any{
		"/v1/runs": []api.Run{run},
		"/v1/machines/x": api.Machine{ID: hostile, Tenant: hostile, Name: hostile, Image: hostile, State: hostile, Presence: hostile, VM: hostile, HostKey: hostile, Hint: hostile,
			Exits: []string{hostile}, Placement: api.Placement{Pool: hostile, Host: hostile, SR: hostile, MAC: hostile, Console: hostile}, Runs: []api.Run{run},
			Attempts: []api.Attempt{{Step: hostile, Outcome: hostile, Kind: hostile, Message: hostile, Actor: hostile}}, Entries: []api.Entry{{Group: hostile, Bad: hostile}}},
		"/v1/explain/x": api.Explanation{Now: hostile, Found: []string{hostile}, Exits: []string{hostile}, Hint: hostile,
			Placement: []orchestrator.Considered{{Pool: hostile, Host: hostile, SR: hostile, Filter: hostile}}},
		"/v1/watch":     api.Board{Now: time.Now(), Runs: []api.Watched{{Run: run, Image: hostile, Guest: []api.Stage{{Stage: hostile}}}}},
		"/v1/stats":     api.Stats{Method: hostile, Rows: []api.StatsRow{{Process: hostile, Image: hostile, Pool: hostile, Step: hostile}}},
		"/v1/retry/x":   api.Acted{Found: []string{hostile}, Plan: []string{hostile}, Done: true, Run: &run},
		"/v1/pools":     []api.Pool{{ID: hostile, Strategy: hostile, Problem: hostile, Hosts: []api.Host{{Name: hostile}}, SRs: []api.SR{{Name: hostile}}}},
		"/v1/addresses": []api.Address{{Pool: hostile, Role: hostile, Owner: hostile, Machine: hostile, State: hostile, Note: hostile}},
		"/v1/groups":    []api.Group{{ID: hostile, Unit: hostile, Members: []api.Member{{Name: hostile, Halted: hostile}}}},
		"/v1/dead":      []api.DeadLetter{{ID: "x", Reason: hostile, Body: hostile}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			answer = api.Error{Code: api.CodeNotFound, Message: hostile, Next: hostile, Fields: orchestrator.FieldErrors{{Field: hostile, Problem: hostile, Fix: hostile}}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return socket
}

// Whatever serve says, nothing of it drives the terminal or makes a line of its own.
func TestHostileTextIsCleaned(t *testing.T) {
	socket := fakeServe(t)
	for _, args := range []string{"list", "show x", "explain x", "watch x", "watch --all", "stats", "retry x", "pool", "ip", "group", "dead", "dead show x", "show nobody", "cancel nobody"} {
		t.Run(args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			run(t.Context(), append([]string{"--socket", socket}, strings.Fields(args)...), strings.NewReader(""), &stdout, &stderr)
			if stdout.Len()+stderr.Len() == 0 {
				t.Fatal("nothing was printed")
			}
			run(t.Context(), append([]string{"--socket", socket, "--output", "json"}, strings.Fields(args)...), strings.NewReader(""), &stdout, &stderr)
			all := stdout.String() + stderr.String()
			for _, bad := range []string{"\x1b", "\x07", "\u009b", "\r", "\u2028", "\u202e", "\u2066", "\nfake line"} {
				if strings.Contains(all, bad) {
					t.Errorf("%q came through:\n%q", bad, all)
				}
			}
		})
	}
}

// What is to be typed next can be typed, whatever was typed before.
func TestAgain(t *testing.T) {
	reason, other := orchestrator.FieldErrors{{Field: "reason"}}, orchestrator.FieldErrors{{Field: "until"}}
	for _, tc := range []struct {
		args   []string
		help   string
		fields orchestrator.FieldErrors
		want   string
	}{
		{[]string{"maintenance", "on", "pool-a", "--yes"}, "slipway maintenance on --help", reason, "slipway maintenance on pool-a --yes --reason WHY"},
		{[]string{"ip", "mark", "a", "10.0.0.9", "--note", "it's old", ""}, "slipway ip mark --help", reason, `slipway ip mark a 10.0.0.9 --note 'it'\''s old' '' --reason WHY`},
		{[]string{"maintenance", "on", "pool-a"}, "slipway maintenance on --help", other, "slipway maintenance on --help"},
		{[]string{"order", "file"}, "slipway order --help", other, "slipway schema order"},
		{[]string{"suspend", "x"}, "slipway suspend --help", other, "slipway schema order"},
	} {
		if got := again(tc.args, tc.help)(tc.fields); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.args, got, tc.want)
		}
	}
}

// Every kind of error has its exit code, and ends with the command to type next.
func TestReport(t *testing.T) {
	fields := orchestrator.FieldErrors{{Field: "plan", Problem: "is large", Fix: "make it small"}}
	for _, tc := range []struct {
		err  error
		code int
		want string
	}{
		{nil, exitOK, ""},
		{errors.New("it broke"), exitFailure, "slipway: it broke\nnext: slipway --help\n"},
		{errors.New("one\ntwo"), exitFailure, "slipway: one\ntwo\nnext: slipway --help\n"},
		{hinted{error: errors.New("it broke"), next: "slipway list", code: exitUsage}, exitUsage, "slipway: it broke\nnext: slipway list\n"},
		{fields, exitRefused, "slipway: plan: is large\n  fix: make it small\nnext: slipway verb --help\n"},
		{&api.Error{Code: api.CodeRefused, Message: "no", Fields: fields}, exitRefused, "slipway: plan: is large\n  fix: make it small\nnext: slipway verb --help\n"},
		{orchestrator.FieldErrors{{Field: "reason", Problem: "is missing", Fix: "say why"}}, exitRefused, "slipway: reason: is missing\n  fix: say why\nnext: slipway verb acme/web-1 --reason WHY\n"},
		{&api.AwayError{Socket: "/none/s", Err: &net.OpError{Op: "dial", Err: syscall.EACCES}}, exitFailure,
			"slipway: you may not connect to /none/s: its owner and its group may\nnext: join the group that may: sudo usermod -aG GROUP-OF-SERVE $USER, then log in again\n"},
		{&api.Error{Code: api.CodeNotFound, Message: "no", Next: "slipway list"}, exitNotFound, "slipway: no\nnext: slipway list\n"},
		{&api.Error{Code: api.CodeConflict, Message: "no", Next: "slipway show x"}, exitConflict, "slipway: no\nnext: slipway show x\n"},
		{&api.Error{Code: api.CodeAway, Message: "no", Next: "slipway check"}, exitAway, "slipway: no\nnext: slipway check\n"},
		{&api.Error{Code: api.CodeInternal, Message: "no"}, exitFailure, "slipway: no\nnext: slipway --help\n"},
		{fmt.Errorf("list: %w", &api.AwayError{Socket: "s", Err: errors.New("refused")}), exitAway, "slipway: list: serve does not answer on s: refused\nnext: slipway serve, or name its socket with --socket\n"},
	} {
		var out bytes.Buffer
		if code := report(&out, tc.err, again([]string{"verb", "acme/web-1"}, "slipway verb --help")); code != tc.code || out.String() != tc.want {
			t.Errorf("%v: code %d, %q", tc.err, code, out.String())
		}
	}
}

func TestDemoVerdict(t *testing.T) {
	for _, tc := range []struct {
		result demo.Result
		err    error
		code   int
	}{
		{demo.Result{Ordered: 2, Ready: 2}, nil, exitOK},
		{demo.Result{Ordered: 2, Ready: 1}, nil, exitFailure},
		{demo.Result{Ordered: 2, Ready: 2, Report: audit.Report{Leaked: []string{"a VM"}}}, nil, exitFailure},
		{demo.Result{Ordered: 2, Ready: 2, Report: audit.Report{Duplicated: []string{"a rule"}}}, nil, exitFailure},
		{demo.Result{Ordered: 2, Ready: 2}, errors.New("it broke"), exitFailure},
	} {
		var out bytes.Buffer
		if code := report(&out, verdict(tc.result, tc.err), nil); code != tc.code || (code != 0) != strings.Contains(out.String(), "next: slipway demo") {
			t.Errorf("%+v, %v: code %d, %q", tc.result, tc.err, code, out.String())
		}
	}
}

func TestDemoCommand(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"demo", "--orders", "1", "--pools", "1", "--log", filepath.Join(t.TempDir(), "log")}, strings.NewReader(""), &stdout, &stderr); code != exitOK {
		t.Fatalf("code %d: %s", code, stderr.String())
	}
	if !strings.HasSuffix(stdout.String(), "\ndemo: 1 ordered, 1 production_ready, 0 leaked, 0 duplicated\n") {
		t.Errorf("the last line is another:\n%s", stdout.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := run(ctx, []string{"demo", "--orders", "1", "--pools", "1"}, strings.NewReader(""), &stdout, &stderr); code != exitFailure {
		t.Errorf("an interrupted demo ended with %d", code)
	}
}

// The states page holds the diagrams that the tables draw.
func TestStatesPageIsFresh(t *testing.T) {
	page, err := os.ReadFile("../../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{install.Name, uninstall.Name, "reconfigure", "suspend", "unsuspend"} {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"graph", name}, strings.NewReader(""), &out, &out); code != exitOK {
			t.Fatalf("code %d", code)
		}
		if !strings.Contains(string(page), out.String()) {
			t.Errorf("docs/states.md is stale: put the output of `slipway graph %s` into it", name)
		}
	}
}
