package service_test

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/internal/demo"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/workers/intake/message"
	"slipway/workers/postinstall"
)

const windowsPin = "0000000000000000000000000000000000000000000000000000000000000000"

// windowsSite has a template of windows-2022 in the configuration; its pool has none.
func windowsSite(t *testing.T) *demo.Site {
	t.Helper()
	s := site(t)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("template password"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Config.Pools[0].Images["windows-2022"] = config.Image{WinRM: &config.WinRMLogin{Password: config.Secret{File: file}, PinSHA256: config.Words{windowsPin}}}
	return s
}

func windowsOrder(id string, change func(*orchestrator.Order)) orchestrator.Order {
	o := order()
	o.ID, o.Name, o.Image = id, "win-"+id, "windows-2022"
	if change != nil {
		change(&o)
	}
	return o
}

func client(t *testing.T, s *demo.Site) *api.Client {
	t.Helper()
	c := api.NewClient(s.Config.Socket)
	t.Cleanup(c.Close)
	until(t, "the socket answers", func() bool { return c.Get(t.Context(), "/v1/groups", new([]api.Group)) == nil })
	return c
}

// take hands an order in as an operator does.
func take(t *testing.T, c *api.Client, o orchestrator.Order) (api.Accepted, *api.Error) {
	t.Helper()
	m, err := message.EncodeOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	var accepted api.Accepted
	var refused *api.Error
	if err := c.Post(t.Context(), "/v1/orders", m.Body, &accepted); err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	return accepted, refused
}

// Every name that Windows would not take, and every add-on where it does not go, is refused with its field and a fix.
func TestWindowsOrdersThatAreRefused(t *testing.T) {
	s := windowsSite(t)
	_, _ = work(t, s, io.Discard)
	c := client(t, s)
	for name, row := range map[string]struct {
		change              func(*orchestrator.Order)
		field, problem, fix string
	}{
		"long hostname":                 {func(o *orchestrator.Order) { o.Hostname = "a-very-long-name-1.example.net" }, "hostname", `"a-very-long-name-1" has 18 characters before the first dot, and a Windows computer name at most 15`, `use at most 15, e.g. "a-very-long-nam"`},
		"long name":                     {func(o *orchestrator.Order) { o.Name = "a-very-long-name-1" }, "hostname", "is left out, and the name stands in: ", "use at most 15"},
		"all digits":                    {func(o *orchestrator.Order) { o.Hostname = "4711.example.net" }, "hostname", "is all digits", "add a letter"},
		"reserved":                      {func(o *orchestrator.Order) { o.Hostname = "network" }, "hostname", "is a name that Windows keeps for itself", `use another, e.g. network-1`},
		"add-on":                        {func(o *orchestrator.Order) { o.Image = "windows-2022-cpanel" }, "image", `"windows-2022-cpanel" is unknown: cpanel cannot be put on windows-2022`, "use one of almalinux-8-cpanel, "},
		"add-on on the wrong Linux":     {func(o *orchestrator.Order) { o.Image = "debian-12-cpanel" }, "image", "cpanel cannot be put on debian-12", "or debian-12 without it"},
		"add-on that nobody has pinned": {func(o *orchestrator.Order) { o.Image = "almalinux-9-cpanel" }, "image", "nobody has said which one may be run", "postinstall/cpanel/pin.yaml"},
		"another Windows":               {func(o *orchestrator.Order) { o.Image = "windows-95" }, "image", `"windows-95" is unknown`, "windows-2022"},
		"no template":                   {func(o *orchestrator.Order) { o.Image = "windows-2025" }, "image", `no pool has a template for "windows-2025"`, "publish the template"},
	} {
		t.Run(name, func(t *testing.T) {
			_, refused := take(t, c, windowsOrder("1", row.change))
			if refused == nil || len(refused.Fields) != 1 {
				t.Fatalf("%+v", refused)
			}
			f := refused.Fields[0]
			if f.Field != row.field || !strings.Contains(f.Problem, row.problem) || !strings.Contains(f.Fix, row.fix) {
				t.Errorf("%s", f)
			}
		})
	}
}

// The password that the operator reads is the one that the customer's key opens; who read it is recorded, and the password is nowhere.
func TestAdministratorPassword(t *testing.T) {
	s := windowsSite(t)
	var log lockedBuffer
	w, _ := work(t, s, &log)
	c := client(t, s)
	private, public, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBO/VkBSBqtMsXqN8CHCwlyd4PFD4OAhfi3WxdCJX9xIxPTXPdbyuqYh9mNvGtqo9tesegeXiAupAeAPxNwduGMw= nobody"
	first, refused := take(t, c, windowsOrder("1", func(o *orchestrator.Order) { o.SSHKeys = []string{ecdsa, strings.TrimSpace(public)} }))
	if refused != nil {
		t.Fatal(refused, refused.Fields)
	}
	keyless, refused := take(t, c, windowsOrder("2", func(o *orchestrator.Order) { o.SSHKeys = []string{ecdsa} }))
	if refused != nil {
		t.Fatal(refused, refused.Fields)
	}
	linux, refused := take(t, c, windowsOrder("3", func(o *orchestrator.Order) { o.Image = "debian-12" }))
	if refused != nil {
		t.Fatal(refused, refused.Fields)
	}

	var told, again, other api.Password
	ask := func(what string, into *api.Password) error {
		return c.Post(t.Context(), "/v1/password/"+what, api.AskPassword{Reason: "ticket 4711"}, into)
	}
	for what, into := range map[string]*api.Password{"acme/win-1": &told, first.Machine: &again, keyless.Machine: &other} {
		if err := ask(what, into); err != nil {
			t.Fatal(err)
		}
	}
	if told != again || told.Password == other.Password || len(told.Password) != 20 || told.Account != "Administrator" || told.Machine != first.Machine || told.Set {
		t.Errorf("a password of %d characters for %s, set %v", len(told.Password), told.Account, told.Set)
	}
	var conflict *api.Error
	if err := ask(linux.Machine, new(api.Password)); !errors.As(err, &conflict) || conflict.Code != api.CodeConflict || !strings.Contains(conflict.Message, "has no administrator's password") {
		t.Errorf("of a Linux machine: %v", err)
	}

	read := func(machine string) string { return "true read-password " + machine + " ticket 4711" }
	want := []string{read(first.Machine), read(first.Machine), read(keyless.Machine)}
	slices.Sort(want)
	if diff := cmp.Diff(want, acts(t, s)); diff != "" {
		t.Errorf("who read which password (-want +got):\n%s", diff)
	}

	m, err := w.Store.Machine(t.Context(), first.Machine)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := agessh.ParseIdentity([]byte(private.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := age.Decrypt(armor.NewReader(strings.NewReader(m.AdministratorAge)), identity)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(opened)
	if string(text) != told.Password || err != nil {
		t.Errorf("the customer's key opens another: %v", err)
	}
	if m, err := w.Store.Machine(t.Context(), keyless.Machine); err != nil || m.AdministratorAge != "" {
		t.Errorf("%q, %v", m.AdministratorAge, err)
	}
	if said := log.String(); strings.Contains(said, told.Password) || strings.Count(said, "ticket 4711") != 3 || !strings.Contains(said, "administrator's password read") {
		t.Errorf("the log has the password, or does not say who read it:\n%s", said)
	}
}

// acts are who did what, as the journal has it: verb, subject, reason.
func acts(t *testing.T, s *demo.Site) (lines []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(s.Config.Database, "sqlite:")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT actor <> '', verb, subject, reason FROM acts WHERE verb <> 'order' ORDER BY subject`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var named bool
		var verb, subject, reason string
		if err := rows.Scan(&named, &verb, &subject, &reason); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(named, " ", verb, " ", subject, " ", reason))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// What a pool says of an image must go with how the catalogue reaches it.
func TestImagesAndTheirTransport(t *testing.T) {
	s := windowsSite(t)
	s.Config.Pools[0].Images["windows-2019"] = config.Image{HostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7"}
	s.Config.Pools[0].Images["debian-11"] = config.Image{WinRM: &config.WinRMLogin{}}
	_, err := service.New(t.Context(), s.Config, service.Options{Log: slog.New(slog.DiscardHandler), Dial: s.Dial})
	var fields orchestrator.FieldErrors
	if !errors.As(err, &fields) || len(fields) != 2 {
		t.Fatal(err)
	}
	for i, want := range []string{"pools.pool-a.images.debian-11.winrm: has no meaning", "pools.pool-a.images.windows-2019.winrm: is missing"} {
		if !strings.HasPrefix(fields[i].Error(), want) {
			t.Errorf("%v, want %s", fields[i], want)
		}
	}
}
