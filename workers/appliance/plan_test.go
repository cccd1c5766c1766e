package appliance

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

func (b *bundle) plan() Plan {
	b.Helper()
	p, err := New(b.cfg).Plan(b.Context(), groupID)
	must(b, err)
	return p
}

func (b *bundle) applyPlan(hash string) (Plan, []orchestrator.Member, error) {
	b.Helper()
	return New(b.cfg).ApplyPlan(b.Context(), groupID, hash)
}

func (b *bundle) edit(box int, change func(string) string) {
	b.Helper()
	path := filepath.Join(b.boxes[box].dir, "hosts.conf")
	must(b, os.WriteFile(path, []byte(change(b.boxes[box].live(b))), 0o644))
}

// touched is everything below an appliance's directory that a change would move: name, inode, size, mode and both times.
func touched(tb testing.TB, dir string) map[string][6]int64 {
	tb.Helper()
	out := map[string][6]int64{}
	must(tb, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		out[path] = [6]int64{int64(s.Ino), s.Size, int64(s.Mode), s.Mtim.Nano(), s.Ctim.Nano(), int64(s.Nlink)}
		return nil
	}))
	return out
}

func TestPlanOfAnIdleGroupIsEmpty(t *testing.T) {
	b := setup(t, 2, 2)
	b.put("a")
	b.put("b")
	must(t, b.round())
	p := b.plan()
	if !p.Empty() || p.Problem != "" || p.Blocked() != "" || p.Rows != 2 || len(p.Members) != 2 || p.Members[0].Generation != p.Generation {
		t.Errorf("%+v", p)
	}
	if again := b.plan(); again.Hash != p.Hash {
		t.Error("the same plan has another hash")
	}
}

func TestPlanTouchesNothing(t *testing.T) {
	b := setup(t, 1, 1)
	box := b.boxes[0]
	fresh := touched(t, box.dir)
	b.put("a")
	if p := b.plan(); p.Empty() || p.Members[0].Added != 1 {
		t.Errorf("before the first apply: %+v", p)
	}
	if diff := cmp.Diff(fresh, touched(t, box.dir)); diff != "" {
		t.Errorf("a plan of a fresh appliance touched %s", diff)
	}
	must(t, b.round())
	b.put("b")
	before, member, group := touched(t, box.dir), b.member(0), b.known()
	if p := b.plan(); p.Empty() {
		t.Error("nothing would change")
	}
	if diff := cmp.Diff(before, touched(t, box.dir)); diff != "" {
		t.Errorf("a plan touched %s", diff)
	}
	if diff := cmp.Diff([]any{member, group}, []any{b.member(0), b.known()}); diff != "" {
		t.Errorf("a plan changed the store: %s", diff)
	}
}

func TestPlanShowsWhoseLinesGoAndCome(t *testing.T) {
	b := setup(t, 1, 1)
	stays, changes, goes := b.put("stays"), b.put("old"), b.put("goes")
	must(t, b.round())
	b.change(changes, "new")
	b.drop(goes)
	comes := b.put("comes")
	b.edit(0, func(s string) string { return s + "a stranger's line\n" })
	p := b.plan()
	want := map[string]Change{
		changes: {Kind: "changed", Lines: []Line{{Op: '-', Text: changes + " old"}, {Op: '+', Text: changes + " new"}}},
		goes:    {Kind: "removed", Lines: []Line{{Op: '-', Text: goes + " goes"}}},
		comes:   {Kind: "added", Lines: []Line{{Op: '+', Text: comes + " comes"}}},
		"":      {Kind: "changed", Lines: []Line{{Op: '-', Text: "a stranger's line"}}},
	}
	got := map[string]Change{}
	for _, c := range p.Members[0].Changes {
		if c.File != "hosts.conf" {
			t.Errorf("file %q", c.File)
		}
		got[c.Machine] = Change{Kind: c.Kind, Lines: c.Lines}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m := p.Members[0]; m.Added != 1 || m.Removed != 1 || m.Altered != 1 {
		t.Errorf("%d added, %d removed, %d changed", m.Added, m.Removed, m.Altered)
	}
	if _, found := got[stays]; found {
		t.Error("a machine that stays is in the plan")
	}
}

// A member that was away cuts what it missed, though the generation is confirmed without it.
func TestPlanShowsWhatALateMemberCuts(t *testing.T) {
	b := setup(t, 2, 1)
	b.group.Cuts = func(from, to map[string]string) (cut []netip.Addr) {
		for word := range strings.FieldsSeq(from["hosts.conf"]) {
			if a, err := netip.ParseAddr(word); err == nil && !strings.Contains(to["hosts.conf"], word) {
				cut = append(cut, a)
			}
		}
		return cut
	}
	b.cfg.Groups = []Group{b.group}
	b.put("10.0.0.2")
	gone := b.put("10.0.0.1")
	must(t, b.round())
	b.boxes[1].away = true
	b.drop(gone)
	if p := b.plan(); !slices.Equal(p.Cut, []netip.Addr{netip.MustParseAddr("10.0.0.1")}) {
		t.Errorf("of the member that is there: %v", p.Cut)
	}
	_ = b.round() // the other one is not brought up to date
	if p := b.plan(); len(p.Cut) > 0 {
		t.Errorf("when it is done: %v", p.Cut)
	}
	b.boxes[1].away = false
	if p := b.plan(); p.Applied != p.Generation || !slices.Equal(p.Cut, []netip.Addr{netip.MustParseAddr("10.0.0.1")}) {
		t.Errorf("of the late one: %v, %d of %d applied", p.Cut, p.Applied, p.Generation)
	}
}

func TestApplyPlanHealsWhatItShowed(t *testing.T) {
	b := setup(t, 2, 2)
	id := b.put("a")
	must(t, b.round())
	right := b.boxes[0].live(t)
	b.edit(0, func(s string) string { return strings.Replace(s, id+" a", id+" hand", 1) })
	p := b.plan()
	if p.Empty() || !p.Members[0].Differs() || p.Members[1].Differs() {
		t.Fatalf("%+v", p)
	}
	if again, _, err := b.applyPlan(strings.Repeat("0", 64)); !errors.Is(err, ErrPlanChanged) || again.Hash != p.Hash {
		t.Errorf("another hash: %v", err)
	}
	before := touched(t, b.boxes[1].dir)
	_, after, err := b.applyPlan(p.Hash)
	must(t, err)
	if b.boxes[0].live(t) != right || len(after) != 2 || after[0].Problem != "" || after[1].Problem != "" {
		t.Errorf("%+v, and the file has %q", after, b.boxes[0].live(t))
	}
	if got := touched(t, b.boxes[1].dir)[filepath.Join(b.boxes[1].dir, "hosts.conf")]; got != before[filepath.Join(b.boxes[1].dir, "hosts.conf")] {
		t.Error("the member that was right was written")
	}
	if !b.plan().Empty() {
		t.Error("something is left to do")
	}
	if _, _, err := b.applyPlan(p.Hash); !errors.Is(err, ErrPlanChanged) {
		t.Errorf("a plan was applied twice: %v", err)
	}
}

func TestApplyPlanRefusesAChangeInBetween(t *testing.T) {
	for name, change := range map[string]func(b *bundle){
		"another hand edit": func(b *bundle) { b.edit(0, func(s string) string { return s + "more\n" }) },
		"a new entry":       func(b *bundle) { b.put("c") },
		"a mode":            func(b *bundle) { must(b, os.Chmod(filepath.Join(b.boxes[0].dir, "hosts.conf"), 0o600)) },
		"a file that went":  func(b *bundle) { must(b, os.Remove(filepath.Join(b.boxes[0].dir, "hosts.conf"))) },
		"a member away":     func(b *bundle) { b.boxes[1].set(func(x *box) { x.away = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, 2, 1)
			b.put("a")
			must(t, b.round())
			b.edit(0, func(s string) string { return s + "hand\n" })
			p := b.plan()
			change(b)
			applied := len(b.boxes[0].applies())
			now, _, err := b.applyPlan(p.Hash)
			if !errors.Is(err, ErrPlanChanged) || now.Hash == p.Hash || now.Hash == "" {
				t.Fatalf("%v", err)
			}
			for _, r := range b.boxes[0].applies()[applied:] {
				if !r.ReadOnly {
					t.Errorf("an agent was asked to apply: %+v", r)
				}
			}
		})
	}
}

// TestAgentRefusesAChangeAfterTheLastLook: between the controller's look and the agent's lock somebody writes.
func TestAgentRefusesAChangeAfterTheLastLook(t *testing.T) {
	b := setup(t, 1, 1)
	b.put("a")
	must(t, b.round())
	b.edit(0, func(s string) string { return s + "hand\n" })
	p := b.plan()
	b.boxes[0].set(func(x *box) {
		x.gate = func(r apply.Request) {
			if !r.ReadOnly {
				b.edit(0, func(s string) string { return s + "late\n" })
			}
		}
	})
	if _, _, err := b.applyPlan(p.Hash); !errors.Is(err, ErrPlanChanged) {
		t.Errorf("%v", err)
	}
	if !strings.HasSuffix(b.boxes[0].live(t), "hand\nlate\n") {
		t.Errorf("the file was written: %q", b.boxes[0].live(t))
	}
}

func TestApplyPlanStopsAtACulprit(t *testing.T) {
	b := setup(t, 1, 1)
	b.put("a")
	must(t, b.round())
	before := b.boxes[0].live(t)
	bad := b.put("bad")
	if _, _, err := b.applyPlan(b.plan().Hash); !errors.Is(err, ErrPlanChanged) || !strings.Contains(err.Error(), bad) {
		t.Errorf("%v", err)
	}
	if b.boxes[0].live(t) != before {
		t.Error("something was applied that was not shown")
	}
	if s := b.state(bad); s.Bad == "" {
		t.Error("the entry was not marked")
	}
	p := b.plan() // without it
	if !p.Empty() {
		t.Errorf("%+v", p)
	}
}

func TestApplyPlanWaitsForAnOperatorsWord(t *testing.T) {
	b := setup(t, 1, 1)
	var ids []string
	for range 20 {
		ids = append(ids, b.put("x"))
	}
	must(t, b.round())
	b.lose(ids[:10]...)
	p := b.plan()
	if !strings.Contains(p.Blocked(), "approve-shrink") || p.Members[0].Removed != 10 {
		t.Fatalf("blocked: %q; %+v", p.Blocked(), p.Members[0])
	}
	if _, _, err := b.applyPlan(p.Hash); !errors.Is(err, ErrPlanBlocked) {
		t.Fatalf("%v", err)
	}
	must(t, b.store.ApproveShrink(t.Context(), groupID, p.Generation, "0:root", "moved"))
	m := b.member(0)
	m.Halted = "shrink: too many"
	must(t, b.store.PutMember(t.Context(), m))
	if _, _, err := b.applyPlan(p.Hash); !errors.Is(err, ErrPlanBlocked) || !strings.Contains(err.Error(), "slipway group resume") {
		t.Fatalf("halted: %v", err)
	}
	m.Halted = ""
	must(t, b.store.PutMember(t.Context(), m))
	if _, _, err := b.applyPlan(p.Hash); err != nil { // an operator's word does not change what is done
		t.Fatal(err)
	}
	if n := strings.Count(b.boxes[0].live(t), " x\n"); n != 10 {
		t.Errorf("%d machines are left", n)
	}
}

func TestPlanWithoutAMember(t *testing.T) {
	b := setup(t, 2, 1)
	b.put("a")
	must(t, b.round())
	b.boxes[1].set(func(x *box) { x.away = true })
	b.put("b")
	p := b.plan()
	if p.Empty() || !strings.Contains(p.Members[1].Problem, "no route to host") || p.Blocked() != "" {
		t.Fatalf("%+v", p)
	}
	_, after, err := b.applyPlan(p.Hash)
	if err != nil || len(after) != 1 || after[0].Applied != p.Generation {
		t.Errorf("%+v, %v", after, err)
	}
	b.boxes[0].set(func(x *box) { x.away = true })
	if p := b.plan(); p.Empty() || p.Blocked() == "" {
		t.Errorf("with nobody there: %+v", p)
	}
}

func TestApplyPlanTakesTurns(t *testing.T) {
	b := setup(t, 1, 1)
	b.put("a")
	p := b.plan()
	c := New(b.cfg)
	c.turns[groupID] <- struct{}{} // the loop is at it
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.ApplyPlan(ctx, groupID, p.Hash); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, _, err := c.ApplyPlan(ctx, "nobody", p.Hash); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("unknown group: %v", err)
	}
}

func TestPlanShowsNoSecret(t *testing.T) {
	b := setup(t, 1, 1)
	b.group.Redact = func(line string) (string, bool) {
		shown, _, found := strings.Cut(line, " ")
		return shown, found
	}
	b.cfg.Groups = []Group{b.group}
	id := b.put("old")
	must(t, b.round())
	b.change(id, "new")
	want := []Line{{Op: '-', Text: id, Secret: true}, {Op: '+', Text: id, Secret: true}}
	if diff := cmp.Diff(want, b.plan().Members[0].Changes[0].Lines); diff != "" {
		t.Error(diff)
	}
}

func TestDifference(t *testing.T) {
	const one, two = "00000001-0000-4000-8000-000000000001", "00000002-0000-4000-8000-000000000002"
	block := func(id, address string) string { return "host " + id + " {\n  fixed-address " + address + ";\n}\n" }
	for name, tc := range map[string]struct {
		live *string
		want string
		says []string // machine kind lines
	}{
		"no file":            {nil, block(one, "1"), []string{one + " added 3"}},
		"no file, empty":     {nil, "", []string{" changed 1"}},
		"the same":           {new(block(one, "1")), block(one, "1"), nil},
		"a line in a block":  {new(block(one, "1") + block(two, "2")), block(one, "1") + block(two, "3"), []string{two + " changed 2"}},
		"a block goes":       {new(block(one, "1") + block(two, "2")), block(two, "2"), []string{one + " removed 3"}},
		"a stranger's block": {new(block(one, "1") + block(two, "2")), block(one, "1"), []string{two + " removed 3"}},
		"no end of line":     {new(strings.TrimSuffix(block(one, "1"), "\n")), block(one, "1"), []string{" changed 1"}},
		"all goes":           {new(block(one, "1")), "# none\n", []string{one + " removed 3", " changed 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := differ{names: map[string]string{one: one}}
			live := apply.LiveFile{Name: "f"}
			if tc.live != nil {
				live = apply.LiveFile{Name: "f", Exists: true, Content: *tc.live, SHA256: apply.Digest(*tc.live)}
			}
			d.file(live, apply.File{Name: "f", Content: tc.want}, nil)
			var says []string
			for _, c := range d.result().Changes {
				says = append(says, strings.Join([]string{c.Machine, c.Kind, string(rune('0' + len(c.Lines)))}, " "))
			}
			if diff := cmp.Diff(tc.says, says); diff != "" {
				t.Error(diff)
			}
		})
	}
}
