package storetest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
)

func passes(t *testing.T, h Harness) {
	b := setup(t, h)
	hash := func(s string) orchestrator.PassHash { return sha256.Sum256([]byte(s)) }
	here, there := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.8")
	c := b.taken("a")
	machine := c.Machine.ID
	issue := func(token string, p orchestrator.ConsolePass, life time.Duration) {
		t.Helper()
		p.Machine, p.User = machine, "ann"
		got, err := b.store.IssueToken(t.Context(), hash(token), p, life, "1000:op")
		must(t, err)
		if got.Expires.IsZero() {
			t.Error("a token without an end")
		}
	}
	redeem := func(token, session, machine string, from netip.Addr) error {
		_, err := b.store.RedeemToken(t.Context(), hash(token), hash(session), machine, from, time.Hour)
		return err
	}
	look := func(session string, from netip.Addr) error {
		_, err := b.store.Session(t.Context(), hash(session), machine, from)
		return err
	}
	expect := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	body := func(password string) json.RawMessage {
		return json.RawMessage(`{"password":"` + password + `"}`)
	}

	_, err := b.store.IssueToken(t.Context(), hash("x"), orchestrator.ConsolePass{Machine: "nobody"}, time.Minute, "1000:op")
	expect("a token for no machine", err, orchestrator.ErrNotFound)

	issue("once", orchestrator.ConsolePass{}, time.Minute)
	expect("for another machine", redeem("once", "s", "another", here), orchestrator.ErrNotFound)
	expect("first", redeem("once", "s", machine, here), nil)
	expect("second", redeem("once", "s2", machine, here), orchestrator.ErrPassUsed)
	expect("the session", look("s", there), nil)
	expect("a token is no session", look("once", here), orchestrator.ErrNotFound)
	expect("a session is no token", redeem("s", "s3", machine, here), orchestrator.ErrNotFound)
	if p, err := b.store.Session(t.Context(), hash("s"), machine, here); err != nil || p.User != "ann" || p.Machine != machine {
		t.Errorf("session %+v, %v", p, err)
	}

	issue("late", orchestrator.ConsolePass{}, 0)
	expect("too late", redeem("late", "s4", machine, here), orchestrator.ErrPassExpired)

	issue("bound", orchestrator.ConsolePass{Address: here}, time.Minute)
	expect("from elsewhere", redeem("bound", "s5", machine, there), orchestrator.ErrPassAddress)
	expect("from there", redeem("bound", "s5", machine, netip.AddrFrom16(here.As16())), nil)
	expect("its session elsewhere", look("s5", there), orchestrator.ErrPassAddress)

	issue("race", orchestrator.ConsolePass{}, time.Minute)
	var mu sync.Mutex
	var won int
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			err := redeem("race", "race"+string(rune('a'+i)), machine, here)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, orchestrator.ErrPassUsed) {
				t.Errorf("of two at once: %v", err)
			}
		})
	}
	all.Wait()
	if won != 1 {
		t.Errorf("a token opened %d times", won)
	}

	put := func(password string) orchestrator.Commit {
		return orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.PutEntry{Group: "xvp", Unit: orchestrator.Console, Body: body(password)}}}
	}
	b.commit(put("one"))
	expect("after the entry was made", look("s", here), nil)
	b.commit(put("one"))
	expect("after the same entry", look("s", here), nil)
	issue("rotated", orchestrator.ConsolePass{}, time.Minute)
	b.commit(put("two"))
	expect("after a new password", look("s", here), orchestrator.ErrPassRevoked)
	expect("a token after a new password", redeem("rotated", "s6", machine, here), orchestrator.ErrPassRevoked)

	issue("dropped", orchestrator.ConsolePass{}, time.Minute)
	expect("again", redeem("dropped", "s7", machine, here), nil)
	b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.DropEntry{Group: "fw-pool-a"}}})
	expect("after another unit's entry went", look("s7", here), nil)
	b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.DropEntry{Group: "xvp"}}})
	expect("after the entry went", look("s7", here), orchestrator.ErrPassRevoked)

	issue("asked", orchestrator.ConsolePass{}, time.Minute)
	n, err := b.store.RevokePasses(t.Context(), machine, "1000:op", "the customer asked")
	must(t, err)
	if n != 1 {
		t.Errorf("%d passes were revoked, one could still open", n)
	}
	expect("after an operator's word", redeem("asked", "s8", machine, here), orchestrator.ErrPassRevoked)

	// By order: while there is a console, once by its id and once by its token.
	ordered := 0
	order := func(token string) orchestrator.Acceptance {
		ordered++
		return orchestrator.Acceptance{
			Order: orchestrator.Order{Source: "panel", ID: fmt.Sprintf("console-%d", ordered), Type: orchestrator.OrderConsole, Tenant: c.Machine.Tenant,
				Machine: machine, Viewer: "ann", TokenHash: hash(token)},
			Run:  orchestrator.Run{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", ordered)},
			Page: func(m orchestrator.Machine) string { return "https://console/m/" + m.ID + "/" }, PassLife: time.Minute, Actor: "test", Now: b.now,
		}
	}
	if _, err := b.store.Accept(t.Context(), order("shut")); !errors.As(err, new(orchestrator.FieldErrors)) {
		t.Errorf("an order for a console that is closed: %v", err)
	}
	b.commit(put("three"))
	a := order("drawn")
	for _, repeated := range []bool{false, true} {
		accepted, err := b.store.Accept(t.Context(), a)
		if err != nil || accepted.Machine != machine || accepted.Repeated != repeated {
			t.Errorf("%+v, %v; repeated must be %v", accepted, err, repeated)
		}
	}
	if _, err := b.store.Accept(t.Context(), order("drawn")); !errors.As(err, new(orchestrator.FieldErrors)) {
		t.Errorf("a token that was issued before: %v", err)
	}
	events, err := b.store.Unpublished(t.Context(), 1000)
	must(t, err)
	told := 0
	for _, e := range events {
		if e.Type == orchestrator.EventConsole {
			told++
			if !strings.Contains(string(e.Data), `"console_url":"https://console/m/`+machine+`/"`) || !strings.Contains(string(e.Data), `"console_expires":"20`) {
				t.Errorf("the event says %s", e.Data)
			}
		}
	}
	if told != 1 {
		t.Errorf("%d events say that a token was issued", told)
	}
	expect("an ordered token", redeem("drawn", "s10", machine, here), nil)

	issue("gone", orchestrator.ConsolePass{}, time.Minute)
	expect("before it is gone", redeem("gone", "s9", machine, here), nil)
	absent := c.Machine
	absent.Presence = orchestrator.Absent
	b.commit(orchestrator.Commit{Run: c.Run, Machine: &absent})
	expect("of a machine that is gone", look("s9", here), orchestrator.ErrPassRevoked)
	_, err = b.store.IssueToken(t.Context(), hash("y"), orchestrator.ConsolePass{Machine: machine}, time.Minute, "1000:op")
	if orchestrator.KindOf(err) != orchestrator.Permanent || errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("a token for a machine that is gone: %v", err)
	}
}
