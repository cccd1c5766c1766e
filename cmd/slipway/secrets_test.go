package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/internal/demo"
	"slipway/internal/leak"
	"slipway/orchestrator"
	"slipway/sim/xapi"
	"slipway/store"
	"slipway/workers/vault"
)

// TestKeyIsExchangedAroundAKilledWorker goes an operator's way from one key to the next, with runs under way and a worker that is killed
// in the middle of it, in a database from before keys had ids.
func TestKeyIsExchangedAroundAKilledWorker(t *testing.T) {
	o := newOperator(t)
	const machines = 24
	o.serve()
	for n := range machines {
		o.order(n)
	}
	o.expect(map[string]int{o.id(0): 2 * machines}, o.id(0))
	secrets := o.secrets(o.keys[0])
	o.dump(secrets)
	o.stop()

	o.write(0, 1)
	o.serve()
	o.expect(map[string]int{o.id(0): 2 * machines, o.id(1): 0}, o.id(0))
	if code, out := o.run("secrets", "rotate"); code != 0 || !strings.Contains(out, "nothing was done") {
		t.Fatalf("without --yes: %d\n%s", code, out)
	}
	// A page is done when the worker is killed in another.
	var page api.Rotated
	if err := o.api.Post(t.Context(), "/v1/secrets/rotate", api.Rotate{Begin: true, Limit: 5, Yes: true, Reason: "begun"}, &page); err != nil {
		t.Fatal(err)
	}
	if page.Key != o.id(1) || page.Resealed != 10 || page.Next == "" {
		t.Fatalf("a page of 5 machines: %+v", page)
	}
	killed := make(chan error, 1)
	go func() {
		killed <- o.api.Post(t.Context(), "/v1/secrets/rotate", api.Rotate{After: page.Next, Yes: true}, &api.Rotated{})
	}()
	o.kill()
	<-killed // it may have been done, and its answer lost

	o.serve()
	o.order(machines)
	status := o.status()
	if len(status.Keys) != 2 || status.Keys[0].Values == 0 || status.Keys[1].Values < 12 || status.Values != 2*machines+2 || status.ClosedCount != 0 {
		t.Errorf("half-way: %+v", status)
	}
	o.stop()
	o.write(1)
	o.refused("vault_key: ", fmt.Sprintf("opens none of %d secrets", status.Keys[0].Values), "put the key there")
	o.write(0)
	o.refused("does not hold key "+o.id(1)+", under which", "put its line back")

	o.write(0, 1)
	o.serve()
	deadline := time.Now().Add(30 * time.Second)
	for { // a run under way may write back what it has in hand
		code, out := o.run("secrets", "rotate", "--yes", "--reason", "the old key was seen in a backup")
		if code == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("code %d: %s", code, out)
		}
	}
	o.expect(map[string]int{o.id(0): 0, o.id(1): 2*machines + 2}, o.id(1))
	if code, out := o.run("secrets", "status"); code != 0 || !strings.Contains(out, "may be removed from vault_key") {
		t.Errorf("status, %d:\n%s", code, out)
	}
	if code, out := o.run("audit", "log"); code != 0 || !strings.Contains(out, "the old key was seen in a backup") || !strings.Contains(out, "key "+o.id(1)) {
		t.Errorf("the record, %d:\n%s", code, out)
	}
	o.stop()

	o.write(1)
	o.serve()
	o.expect(map[string]int{o.id(1): 2*machines + 2}, o.id(1))
	o.stop()
	after := o.secrets(o.keys[1])
	for what, secret := range secrets {
		if after[what] != secret {
			t.Errorf("%s is another one", what)
		}
	}
	o.dump(after)

	o.write(2)
	o.refused("does not hold key "+o.id(1)+", under which", fmt.Sprint(2*machines+2, " secrets"))
	if diff := cmp.Diff(after, o.secrets(o.keys[1])); diff != "" {
		t.Error("a refused start changed something")
	}
}

// operator has a site, a worker as a process, and three keys.
type operator struct {
	*testing.T
	site *demo.Site
	dir  string
	keys []string
	cmd  *exec.Cmd
	said *bytes.Buffer
	api  *api.Client
}

func newOperator(t *testing.T) *operator {
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{T: t, dir: dir}
	if o.site, err = demo.NewSite(t.Context(), dir, 1, 1, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.site.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// Runs stay under way, and try again and again.
	if err := o.site.Fault(0, xapi.Fault{Method: "VM.clone", Error: []string{"HOST_OFFLINE", "OpaqueRef:NULL"}}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	o.keys = []string{string(first), vault.NewKey().Reveal(), vault.NewKey().Reveal()}
	o.api = api.NewClient(o.site.Config.Socket)
	t.Cleanup(o.api.Close)
	// As it is after an upgrade: values were looked at, and none had an id.
	if code, out := o.run("migrate"); code != 0 {
		t.Fatalf("migrate: %d, %s", code, out)
	}
	db, err := sql.Open("sqlite", "file:"+o.database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `UPDATE vault SET keys = '["`+o.id(0)+`"]'`); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *operator) database() string { return strings.TrimPrefix(o.site.Config.Database, "sqlite:") }

func (o *operator) id(n int) string {
	o.Helper()
	v, err := vault.New(orchestrator.NewSecret(o.keys[n]))
	if err != nil {
		o.Fatal(err)
	}
	return v.Keys()[0]
}

// write makes the key file hold these keys.
func (o *operator) write(keys ...int) {
	o.Helper()
	text := ""
	for _, n := range keys {
		text += o.keys[n] + "\n"
	}
	if err := os.WriteFile(filepath.Join(o.dir, "vault.key"), []byte(text), 0o600); err != nil {
		o.Fatal(err)
	}
}

func (o *operator) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	self, err := os.Executable()
	if err != nil {
		o.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--config", o.site.Path}, args...)...)
	out := &bytes.Buffer{}
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), asProgram+"=1"), out, out
	return cmd, out
}

// run is a verb to its end.
func (o *operator) run(args ...string) (code int, out string) {
	cmd, said := o.command(args...)
	timer := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		o.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

func (o *operator) serve() {
	o.Helper()
	o.cmd, o.said = o.command("serve")
	if err := o.cmd.Start(); err != nil {
		o.Fatal(err)
	}
	cmd := o.cmd
	o.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		var found api.Secrets
		ctx, cancel := context.WithTimeout(o.Context(), 5*time.Second)
		err := o.api.Get(ctx, "/v1/secrets", &found)
		cancel()
		if err == nil {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			tick.Stop()
			o.kill()
			o.Fatalf("serve does not answer: %v\n%s", err, o.said)
		}
	}
}

func (o *operator) stop() {
	o.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		o.Fatal(err)
	}
	if err := o.cmd.Wait(); err != nil {
		o.Fatalf("serve: %v\n%s", err, o.said)
	}
}

func (o *operator) kill() {
	_ = o.cmd.Process.Kill()
	_ = o.cmd.Wait()
}

// refused starts a worker that must not start.
func (o *operator) refused(words ...string) {
	o.Helper()
	code, out := o.run("serve")
	for _, w := range words {
		if code != exitRefused || !strings.Contains(out, w) {
			o.Errorf("serve ended with %d, and should have said %q:\n%s", code, w, out)
		}
	}
}

func (o *operator) order(n int) {
	o.Helper()
	body := fmt.Sprintf(`{"specversion": "1.0", "id": "order-%[1]d", "source": "panel", "type": "slipway.order.install", "data": {"tenant": "acme", "name": "web-%[1]d",
		"image": "debian-12", "plan": {"vcpus": 1, "memory_mib": 1024, "disk_gib": 20}, "firewall": [], "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7 customer"]}}`, n)
	if err := o.api.Post(o.Context(), "/v1/orders", []byte(body), nil); err != nil {
		o.Fatal(err)
	}
}

func (o *operator) status() (found api.Secrets) {
	o.Helper()
	if err := o.api.Get(o.Context(), "/v1/secrets", &found); err != nil {
		o.Fatal(err)
	}
	return found
}

func (o *operator) expect(byKey map[string]int, seals string) {
	o.Helper()
	found, got := o.status(), map[string]int{}
	for _, k := range found.Keys {
		got[k.ID] = k.Values
		if k.Seals != (k.ID == seals) {
			o.Errorf("key %s seals: %v", k.ID, k.Seals)
		}
	}
	if diff := cmp.Diff(byKey, got); diff != "" || len(found.Workers) == 0 {
		o.Errorf("secrets by key (-want +got):\n%s%d workers", diff, len(found.Workers))
	}
}

// secrets opens all with one key.
func (o *operator) secrets(key string) map[string]string {
	o.Helper()
	v, err := vault.New(orchestrator.NewSecret(key))
	if err != nil {
		o.Fatal(err)
	}
	db, err := store.Open(o.Context(), o.site.Config.Database)
	if err != nil {
		o.Fatal(err)
	}
	defer db.Close()
	values, _, err := db.SealedValues(o.Context(), "", 1000)
	if err != nil {
		o.Fatal(err)
	}
	found := map[string]string{}
	for _, s := range values {
		plain, err := v.Open(s.Machine, s.Name, s.Sealed)
		if err != nil {
			o.Fatal(err)
		}
		found[s.Name+" of "+s.Machine] = plain.Reveal()
	}
	return found
}

// dump looks for what must not be in the database: what a thief of its files has.
func (o *operator) dump(secrets map[string]string) {
	o.Helper()
	var known leak.Secrets
	for i, key := range o.keys {
		if err := known.Add(fmt.Sprint("key ", i), key); err != nil {
			o.Fatal(err)
		}
	}
	for what, secret := range secrets {
		if err := known.Add(what, secret); err != nil {
			o.Fatal(err)
		}
	}
	files, err := filepath.Glob(o.database() + "*")
	if err != nil || len(files) == 0 {
		o.Fatal("no database", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			o.Fatal(err)
		}
		for _, found := range known.Find(text) {
			o.Errorf("%s has %s", filepath.Base(path), found)
		}
	}
}
