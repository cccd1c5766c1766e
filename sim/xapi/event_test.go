package xapi

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

func (b *bench) events(classes []string, token string, timeout float64) (map[string][]string, string) {
	b.t.Helper()
	a := b.must("event.from", classes, token, timeout).(map[string]any)
	out := map[string][]string{}
	for _, item := range a["events"].([]any) {
		e := item.(map[string]any)
		key := e["class"].(string) + " " + e["operation"].(string)
		out[key] = append(out[key], e["ref"].(string))
		if _, has := e["snapshot"]; has == (e["operation"] == "del") {
			b.t.Errorf("%s %v: snapshot %v", key, e["ref"], has)
		}
	}
	return out, a["token"].(string)
}

func TestEventsAreCoalesced(t *testing.T) {
	b := newBench(t, nil)
	vm := b.must("VM.clone", b.template(), "a").(string)
	_, token := b.events([]string{"vm"}, "", 0)
	for i := range 5 {
		b.must("VM.set_name_description", vm, fmt.Sprint(i))
	}
	b.must("VM.destroy", b.must("VM.clone", b.template(), "short lived"))
	got, next := b.events([]string{"vm"}, token, 5)
	if refs := got["vm mod"]; len(refs) == 0 || refs[len(refs)-1] != vm && refs[0] != vm || len(got["vm add"]) != 0 || len(got["vm del"]) != 0 {
		t.Fatalf("got %v, want one change of %s and nothing of what came and went", got, vm)
	}
	if again, same := b.events([]string{"vm"}, next, 0); len(again) != 0 || same != next {
		t.Fatalf("nothing happened, got %v and token %s after %s", again, same, next)
	}
	b.must("VM.destroy", vm)
	if got, _ := b.events([]string{"VM/" + vm}, next, 5); len(got["vm del"]) != 1 {
		t.Fatalf("got %v, want one deletion", got)
	}
}

func TestTaskEndsTogetherWithItsEffects(t *testing.T) {
	b := newBench(t, nil)
	_, token := b.events([]string{"vm", "vif", "vbd", "task"}, "", 0)
	release := b.s.Hold("VM.clone")
	ref := b.must("Async.VM.clone", b.template(), "a").(string)
	waitFor(t, "the clone stands", func() bool { return b.s.Held("VM.clone") == 1 })
	if got, next := b.events([]string{"vm", "vif", "vbd", "task"}, token, 5); len(got["vm add"]) != 0 || len(got["task add"]) == 0 {
		t.Fatalf("before the end: %v", got)
	} else {
		token = next
	}
	release()
	got, _ := b.events([]string{"vm", "vif", "vbd", "task/" + ref}, token, 5)
	if len(got["vm add"]) != 1 || len(got["vif add"]) != 1 || len(got["vbd add"]) != 2 || len(got["task mod"]) != 1 {
		t.Fatalf("the new machine and the end of its task have to come in one answer, got %v", got)
	}
}

// waitFor polls a fact.
func waitFor(t *testing.T, what string, fact func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestEventFromWakesUp(t *testing.T) {
	b := newBench(t, nil)
	_, token := b.events([]string{"network"}, "", 0)
	done := make(chan []string, 1)
	go func() {
		result, failed, err := b.raw(t.Context(), "event.from", b.session, []string{"network"}, token, 30.0)
		if err != nil || failed != nil {
			done <- append([]string{fmt.Sprint(err)}, failed...)
			return
		}
		done <- []string{fmt.Sprint(len(result.(map[string]any)["events"].([]any)))}
	}()
	waitFor(t, "event.from blocks", func() bool { b.s.mu.Lock(); defer b.s.mu.Unlock(); return len(b.s.waiters) == 1 })
	b.must("task.create", "another class", "")
	b.must("network.create", map[string]any{"other_config": map[string]any{}})
	if got := <-done; strings.Join(got, " ") != "1" {
		t.Fatalf("got %v", got)
	}
}

func TestLogoutEndsEventFrom(t *testing.T) {
	b := newBench(t, nil)
	_, token := b.events([]string{"vm"}, "", 0)
	done := make(chan []string, 1)
	go func() {
		_, failed, err := b.raw(t.Context(), "event.from", b.session, []string{"vm"}, token, 30.0)
		done <- append(failed, fmt.Sprint(err))
	}()
	waitFor(t, "event.from blocks", func() bool { b.s.mu.Lock(); defer b.s.mu.Unlock(); return len(b.s.waiters) == 1 })
	b.must("session.logout")
	if got := <-done; got[0] != "SESSION_INVALID" {
		t.Fatalf("got %v", got)
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t, nil)
	for _, bad := range []string{"1", " ", "garbage", "99999999999999999999,99999999999999999999"} {
		b.refuses([]string{"EVENT_FROM_TOKEN_PARSE_FAILURE", bad}, "event.from", []string{"vm"}, bad, 0.1)
	}
	for _, all := range []string{"", "0,0", "-1,-1"} {
		if got, _ := b.events([]string{"pool"}, all, 0.1); len(got["pool add"]) != 1 {
			t.Errorf("token %q: %v", all, got)
		}
	}
	future := "00000000000009999999,00000000000000000000"
	if got, token := b.events([]string{"*"}, future, 0); len(got) != 0 || token != future {
		t.Errorf("a token of the future: %v, %s", got, token)
	}
}

// xvp speaks the old interface.
func TestEventRegisterAndNext(t *testing.T) {
	b := newBench(t, nil)
	b.must("event.register", []string{"console"})
	vm := b.must("VM.clone", b.template(), "a").(string)
	b.must("VM.provision", vm)
	b.must("VM.start", vm, false, false)
	list := b.must("event.next").([]any)
	if len(list) != 1 || list[0].(map[string]any)["operation"] != "add" {
		t.Fatalf("got %v, want the new console", list)
	}
	b.must("VM.hard_shutdown", vm)
	list = b.must("event.next").([]any)
	if len(list) != 1 || list[0].(map[string]any)["operation"] != "del" {
		t.Fatalf("got %v, want the console's end", list)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if result, failed, err := b.raw(ctx, "event.next", b.session); err == nil {
		t.Fatalf("event.next has to block, got %v %v", result, failed)
	}
}
