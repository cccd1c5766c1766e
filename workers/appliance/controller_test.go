package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

func TestRoundAppliesAndConfirms(t *testing.T) {
	b := setup(t, 2, 2)
	woken := 0
	b.cfg.Woken = func() { woken++ }
	id := b.put("one")
	must(t, b.round())
	for i, x := range b.boxes {
		if got := x.live(t); got != "# ours\n"+id+" one\n" {
			t.Errorf("member %d has %q", i, got)
		}
	}
	if s := b.state(id); !s.IsApplied() || woken != 1 {
		t.Errorf("%+v, woken %d", s, woken)
	}
	must(t, b.round())
	if n := len(b.boxes[0].applies()); n != 1 {
		t.Errorf("%d applies of an unchanged state", n)
	}
	b.drop(id)
	if b.state(id).IsApplied() {
		t.Error("a removal counts before it is applied")
	}
	must(t, b.round())
	if s := b.state(id); s.Found {
		t.Errorf("a removed entry is left: %+v", s)
	}
}

// A hundred entries that come in while an apply runs share the next one.
func TestCoalescing(t *testing.T) {
	b := setup(t, 1, 1)
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.boxes[0].gate = func(apply.Request) { once.Do(func() { close(started); <-release }) }
	b.cfg.Gather, b.cfg.Poll = time.Millisecond, time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { New(b.cfg).Run(ctx) })
	defer running.Wait()
	defer stop()

	b.put("first")
	<-started
	for n := range 100 {
		b.put(fmt.Sprint("host-", n))
	}
	close(release)
	b.until("all is applied", func() bool { g := b.known(); return g.Applied == g.Generation })
	if n := len(b.boxes[0].applies()); n > 3 {
		t.Errorf("%d applies for a burst of 100 entries", n)
	}
	if n := strings.Count(b.boxes[0].live(t), "host-"); n != 100 {
		t.Errorf("%d of 100 are live: %s", n, b.boxes[0].live(t))
	}
}

// A group leaves its interval between two rounds, whatever begins them: a generation that has risen, or the tick for members that must
// catch up, which comes every 2 s.
func TestInterval(t *testing.T) {
	for _, tc := range []struct {
		name           string
		interval, poll time.Duration
		rounds         int
	}{{"busy", 500 * time.Millisecond, time.Millisecond, 3}, {"catching up", 2500 * time.Millisecond, time.Hour, 2}} {
		t.Run(tc.name, func(t *testing.T) {
			b := setup(t, 1, 1)
			b.group.Interval = tc.interval
			b.cfg.Groups = []Group{b.group}
			b.cfg.Gather, b.cfg.Poll = time.Millisecond, tc.poll
			rounds := &roundTimes{Store: b.store}
			b.cfg.Store = rounds
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { New(b.cfg).Run(ctx) })
			defer running.Wait()
			defer stop()
			for n := range tc.rounds {
				id := b.put(fmt.Sprint("host-", n))
				b.until("it is applied", func() bool { return b.state(id).IsApplied() })
			}
			rounds.mu.Lock()
			defer rounds.mu.Unlock()
			for i := 1; i < len(rounds.asked); i++ {
				if d := rounds.asked[i].Sub(rounds.got[i-1]); d < tc.interval {
					t.Errorf("round %d began %s after the one before", i, d)
				}
			}
		})
	}
}

// A busy DHCP server that takes long to be brought up to date is left alone for longer; the others, which go on meanwhile, are not. Only who has
// taken a new state counts, and an apply that nobody had to wait for is no sign of a burst.
func TestIntervalGrowsWithARestart(t *testing.T) {
	const least = 1500 * time.Millisecond
	for _, tc := range []struct {
		name   string
		unit   orchestrator.Unit
		takes  [2]time.Duration // by member; 0 is away
		again  bool             // the next round changes nothing
		alone  bool             // nobody waited for it
		wanted time.Duration
	}{
		{"slow, and nobody waited", orchestrator.DHCP, [2]time.Duration{time.Second / 2, time.Second}, false, true, least},
		{"quick", orchestrator.DHCP, [2]time.Duration{50 * time.Millisecond, 100 * time.Millisecond}, false, false, least},
		{"slow", orchestrator.DHCP, [2]time.Duration{time.Second / 2, time.Second}, false, false, 10 * time.Second},
		{"very slow", orchestrator.DHCP, [2]time.Duration{time.Second, 40 * time.Second}, false, false, 15 * time.Second},
		{"away", orchestrator.DHCP, [2]time.Duration{time.Second / 2, 0}, false, false, 5 * time.Second},
		{"slow without a restart", orchestrator.Firewall, [2]time.Duration{time.Second, 3 * time.Second}, false, false, least},
		{"read back", orchestrator.DHCP, [2]time.Duration{time.Second, 3 * time.Second}, true, false, least},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := setup(t, 2, 1)
			now := time.Now()
			b.cfg.Now = func() time.Time { return now }
			for i, takes := range tc.takes {
				b.boxes[i].away = takes == 0
				b.boxes[i].gate = func(apply.Request) { now = now.Add(takes) }
			}
			b.group.Unit, b.group.Interval = tc.unit, least
			l := b.loop()
			l.waiting = !tc.alone
			b.put("one")
			must(t, l.once(t.Context(), false))
			if tc.again {
				must(t, l.once(t.Context(), true))
			}
			if got := l.interval(); got != tc.wanted {
				t.Errorf("the next round begins %s after this one, want %s", got, tc.wanted)
			}
		})
	}
}

// An apply that was wanted while the one before was under way begins a burst: the one after it leaves the server its time.
func TestBurstLeavesTheServerItsTime(t *testing.T) {
	const takes = 100 * time.Millisecond
	b := setup(t, 1, 1)
	started, release := make(chan struct{}), make(chan struct{})
	b.boxes[0].gate = func(apply.Request) {
		started <- struct{}{}
		<-release
	}
	b.group.Unit, b.group.Interval = orchestrator.DHCP, time.Millisecond
	b.cfg.Groups = []Group{b.group}
	b.cfg.Gather, b.cfg.Poll = time.Millisecond, time.Millisecond
	rounds := &roundTimes{Store: b.store}
	b.cfg.Store = rounds
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { New(b.cfg).Run(ctx) })
	defer running.Wait()
	defer stop()
	b.put("first")
	for _, next := range []string{"second", "third", ""} {
		<-started
		if next != "" {
			b.put(next)
		}
		<-time.After(takes)
		release <- struct{}{}
	}
	rounds.mu.Lock()
	defer rounds.mu.Unlock()
	if d := rounds.asked[2].Sub(rounds.got[1]); d < dhcpShare*takes {
		t.Errorf("the third round began %s after the second, want %s at least", d, dhcpShare*takes)
	}
}

// roundTimes notes when a round asks for the group's lease and when it has it: the interval counts from between the two. No renewal falls
// into rounds as short as a test's.
type roundTimes struct {
	Store
	mu         sync.Mutex
	asked, got []time.Time
}

func (r *roundTimes) AcquireLease(ctx context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error) {
	asked := time.Now()
	lease, ours, err := r.Store.AcquireLease(ctx, name, holder, length)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.got = append(r.asked, asked), append(r.got, time.Now())
	return lease, ours, err
}

func TestMinApplied(t *testing.T) {
	for _, tc := range []struct {
		min  int
		want bool
	}{{1, true}, {2, false}} {
		t.Run(fmt.Sprint(tc.min), func(t *testing.T) {
			b := setup(t, 2, tc.min)
			b.boxes[1].away = true
			id := b.put("one")
			must(t, b.round())
			s := b.state(id)
			if s.IsApplied() != tc.want {
				t.Errorf("applied %v with one of two members and min_applied %d", s.IsApplied(), tc.min)
			}
			if !tc.want && !strings.Contains(s.Problem, "no route to host") {
				t.Errorf("the problem does not say why: %q", s.Problem)
			}
			if m := b.member(1); !m.Dirty || m.Applied != 0 {
				t.Errorf("member %+v", m)
			}
		})
	}
}

// A member that was away is dirty, catches up before the others get anything new, and counts again then.
func TestDirtyMemberCatchesUpFirst(t *testing.T) {
	b := setup(t, 2, 1)
	b.boxes[1].away = true
	b.put("one")
	must(t, b.round())
	b.boxes[1].set(func(x *box) { x.away = false })
	var order []int
	for i, x := range b.boxes {
		x.gate = func(apply.Request) { order = append(order, i) }
	}
	b.put("two")
	must(t, b.round())
	if !slices.Equal(order, []int{1, 0}) {
		t.Errorf("asked in the order %v", order)
	}
	if m := b.member(1); m.Dirty || m.Problem != "" || m.Applied != 2 {
		t.Errorf("member %+v", m)
	}
	if b.boxes[0].live(t) != b.boxes[1].live(t) {
		t.Error("members differ")
	}
}

// A member that does not answer is left alone for a while, longer each time; the others go on.
func TestAwayMemberBacksOff(t *testing.T) {
	b := setup(t, 2, 1)
	b.boxes[1].away = true
	l := b.loop()
	for n := range 5 {
		b.put(fmt.Sprint("host-", n))
		must(t, l.once(t.Context(), false))
	}
	if n := len(b.boxes[1].applies()); n != 1 {
		t.Errorf("a member that is away was asked %d times", n)
	}
	if n := len(b.boxes[0].applies()); n != 5 {
		t.Errorf("the other was asked %d times", n)
	}
}

// A member that hangs is asked last, when those who can do without it have been told, and takes a quarter of the time at most.
func TestHangingMemberHoldsNobodyUp(t *testing.T) {
	b := setup(t, 2, 1)
	now := time.Now()
	b.cfg.Now, b.cfg.Timeout = func() time.Time { return now }, time.Hour
	var asked func()
	b.group.Members[0].Carrier = carrierFunc(func(ctx context.Context, _ apply.Request) (apply.Answer, error) { // its time is up at once
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > b.cfg.Timeout {
			t.Error("a member may hang without an end")
		}
		if asked != nil {
			asked()
		}
		return apply.Answer{}, context.DeadlineExceeded
	})
	l := b.loop()
	b.put("one")
	must(t, l.once(t.Context(), false))
	resting := l.retry["dhcp-1"]
	if rest := resting.until.Sub(now); resting.failures != 1 || rest < time.Second {
		t.Errorf("it rests for %s after %d failures", rest, resting.failures)
	}
	l.retry["dhcp-1"] = backoff{failures: 5, until: now.Add(-time.Second)} // it is its turn again
	id, again := b.put("two"), false
	asked = func() {
		again = true
		if !b.state(id).IsApplied() {
			t.Error("the group waits for the member that hangs")
		}
	}
	must(t, l.once(t.Context(), false))
	if !again {
		t.Error("it was not asked again")
	}
	l = b.loop()
	l.retry["dhcp-1"] = backoff{failures: 1}
	r := &round{loop: l}
	r.rest(b.group.Members[0], time.Minute)
	if rest := l.retry["dhcp-1"].until.Sub(now); rest < 2*time.Minute {
		t.Errorf("a minute's failure is followed by %s", rest)
	}
}

func TestCulprits(t *testing.T) {
	for _, tc := range []struct {
		name   string
		lineno bool
		texts  []string
		bad    []int
		checks int // at most
	}{
		{"one by its line", true, []string{"a", "b", "bad", "c"}, []int{2}, 0},
		{"several by their lines", true, []string{"bad1", "b", "bad2", "c"}, []int{0, 2}, 0},
		{"one by halving", false, []string{"a", "b", "c", "d", "bad", "f", "g", "h"}, []int{4}, 4},
		{"one in each half", false, []string{"bad1", "b", "bad2", "c"}, []int{0, 2}, 6},
		{"all", false, []string{"bad1", "bad2"}, []int{0, 1}, 3},
		{"the only one", false, []string{"bad"}, []int{0}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := setup(t, 1, 1)
			b.boxes[0].lineno = tc.lineno
			old := b.put("old")
			must(t, b.round())
			var ids []string
			for _, text := range tc.texts {
				ids = append(ids, b.put(text))
			}
			must(t, b.round())
			for i, id := range ids {
				s := b.state(id)
				if want := slices.Contains(tc.bad, i); (s.Bad != "") != want {
					t.Errorf("%s: bad is %q", tc.texts[i], s.Bad)
				}
				if !s.IsApplied() {
					t.Errorf("%s waits", tc.texts[i])
				}
				if want := "line"; tc.lineno && s.Bad != "" && !strings.Contains(s.Bad, want) {
					t.Errorf("bad %q is not the tool's line", s.Bad)
				}
				if live := strings.Contains(b.boxes[0].live(t), id); live == slices.Contains(tc.bad, i) {
					t.Errorf("%s is live: %v", tc.texts[i], live)
				}
			}
			if !strings.Contains(b.boxes[0].live(t), old) {
				t.Error("the old entry went")
			}
			if n := len(b.boxes[0].asked) - len(b.boxes[0].applies()); n > tc.checks {
				t.Errorf("%d checks", n)
			}
			must(t, b.round())
			if n := len(b.boxes[0].applies()); n > 2+len(tc.bad) {
				t.Errorf("%d applies: a culprit is tried again and again", n)
			}
		})
	}
}

// A row that is live keeps its last good text when its new one breaks the file, and goes on when the text is put right.
func TestLiveRowKeepsItsText(t *testing.T) {
	b := setup(t, 1, 1)
	id := b.put("good")
	must(t, b.round())
	b.change(id, "bad")
	other := b.put("other")
	must(t, b.round())
	if s := b.state(id); s.Bad == "" {
		t.Error("nothing is said about it")
	}
	if got := b.boxes[0].live(t); !strings.Contains(got, id+" good\n") || !strings.Contains(got, other) {
		t.Errorf("live: %q", got)
	}
	b.change(id, "better")
	must(t, b.round())
	if s := b.state(id); s.Bad != "" || !strings.Contains(b.boxes[0].live(t), id+" better\n") {
		t.Errorf("%+v", s)
	}
}

// When the file is broken without anything new in it, the appliance is at fault and nobody is parked.
func TestBrokenApplianceBlamesNobody(t *testing.T) {
	b := setup(t, 1, 1)
	old := b.put("old")
	must(t, b.round())
	b.boxes[0].set(func(x *box) { x.broken = true })
	id := b.put("new")
	must(t, b.round())
	for _, machine := range []string{old, id} {
		if s := b.state(machine); s.Bad != "" || !strings.Contains(s.Problem, "syntax error") {
			t.Errorf("%+v", s)
		}
	}
	if m := b.member(0); m.Halted != "" || strings.Contains(m.Problem, "no answer") {
		t.Errorf("member %+v", m)
	}
	b.boxes[0].set(func(x *box) { x.broken = false })
	must(t, b.round())
	if s := b.state(id); !s.IsApplied() || s.Problem != "" {
		t.Errorf("%+v", s)
	}
}

// A culprit hears of it also while the group as a whole does not get on.
func TestCulpritIsToldWhileTheGroupStands(t *testing.T) {
	b := setup(t, 2, 2)
	b.boxes[1].away = true
	id, other := b.put("bad"), b.put("fine")
	must(t, b.round())
	if s := b.state(id); s.Bad == "" {
		t.Errorf("%+v", s)
	}
	if s := b.state(other); s.Bad != "" || s.IsApplied() {
		t.Errorf("%+v", s)
	}
}

// More culprits than one round takes out are found in the next ones; nobody else is blamed.
func TestManyCulprits(t *testing.T) {
	b := setup(t, 1, 1)
	var bad []string
	for n := range maxCulprits + 3 {
		bad = append(bad, b.put(fmt.Sprint("bad-", n)))
	}
	good := b.put("good")
	for range 2 {
		if err := b.round(); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range bad {
		if b.state(id).Bad == "" {
			t.Errorf("a culprit was not found")
		}
	}
	if s := b.state(good); s.Bad != "" || !s.IsApplied() {
		t.Errorf("%+v", s)
	}
}

func TestRendererRefusesNewRowsOnly(t *testing.T) {
	b := setup(t, 1, 1)
	first := b.put("dup-10.0.0.9")
	must(t, b.round())
	second, third := b.put("dup-10.0.0.9"), b.put("fine")
	must(t, b.round())
	if s := b.state(first); s.Bad != "" {
		t.Errorf("a live row is blamed: %+v", s)
	}
	if s := b.state(second); s.Bad != "the same as another's" {
		t.Errorf("%+v", s)
	}
	if s := b.state(third); !s.IsApplied() || s.Bad != "" {
		t.Errorf("%+v", s)
	}
	if got := b.boxes[0].live(t); !strings.Contains(got, first) || strings.Contains(got, second) {
		t.Errorf("live: %q", got)
	}
}

// A fault of the renderer itself is nobody's: all members say it, and nothing is sent.
func TestRendererFault(t *testing.T) {
	b := setup(t, 1, 1)
	b.group.Render = func([]Text) (Rendering, map[string]string, error) {
		return Rendering{}, nil, errors.New("the template has no row")
	}
	id := b.put("one")
	if err := b.round(); err == nil {
		t.Error("no error")
	}
	if s := b.state(id); s.Bad != "" || !strings.Contains(s.Problem, "the template has no row") || len(b.boxes[0].asked) != 0 {
		t.Errorf("%+v, asked %d", s, len(b.boxes[0].asked))
	}
}

func TestForeignAndRemovedAreNotRendered(t *testing.T) {
	r := &round{bad: map[string]string{"d": "broken"}, entries: []orchestrator.Entry{
		{Machine: "a", Owner: orchestrator.OwnerSlipway, Body: []byte(`"a"`)},
		{Machine: "b", Owner: orchestrator.OwnerForeign, Body: []byte(`"b"`)},
		{Machine: "c", Owner: orchestrator.OwnerSlipway, Body: []byte(`"c"`), Removed: true},
		{Machine: "d", Owner: orchestrator.OwnerSlipway, Body: []byte(`"d2"`), Live: []byte(`"d1"`)},
		{Machine: "e", Owner: orchestrator.OwnerSlipway, Body: []byte(`"e"`), Bad: "said before"},
	}}
	want := []Text{{Machine: "a", Body: []byte(`"a"`)}, {Machine: "d", Body: []byte(`"d1"`)}}
	if diff := cmp.Diff(want, r.texts()); diff != "" {
		t.Error(diff)
	}
}

// What runs have dropped may go, however many they are and however long an appliance was away; what no run explains may not, beside it either.
func TestDroppedByRunsIsNoShrink(t *testing.T) {
	b := setup(t, 2, 1)
	ids := b.puts(40)
	must(t, b.round())
	b.boxes[1].set(func(x *box) { x.away = true })
	for _, id := range ids[:8] {
		b.drop(id)
	}
	must(t, b.round())
	back := b.put("host-back") // gone and here again while it is away
	b.drop(back)
	must(t, b.round())
	b.change(back, "host-back")
	must(t, b.round())
	for _, id := range ids[8:16] {
		b.drop(id)
	}
	if p := b.plan(); p.Members[0].Blocked != "" {
		t.Errorf("the plan is blocked: %+v", p.Members)
	}
	must(t, b.round())
	b.boxes[1].set(func(x *box) { x.away = false })
	if p := b.plan(); p.Blocked() != "" {
		t.Errorf("the plan is blocked: %q", p.Blocked())
	}
	must(t, b.round())
	for i, x := range b.boxes {
		if m := b.member(i); m.Halted != "" || strings.Count(x.live(t), "host-") != 25 {
			t.Fatalf("member %+v has %d rows", m, strings.Count(x.live(t), "host-"))
		}
	}

	for _, id := range ids[16:24] {
		b.drop(id)
	}
	b.lose(ids[30:36]...)
	before := b.boxes[0].live(t)
	must(t, b.round())
	if m := b.member(0); !strings.Contains(m.Halted, "6 of 25 rows would go besides 8 that runs have dropped and 5 may") || b.boxes[0].live(t) != before {
		t.Errorf("member %+v", m)
	}
}

// An agent from before does not know what a run has dropped: it halts as it always did.
func TestOlderAgentHaltsAtWhatRunsHaveDropped(t *testing.T) {
	b := setup(t, 1, 1)
	ids := b.puts(10)
	must(t, b.round())
	asked := apply.Request{}
	b.boxes[0].lie = func(a *apply.Answer) {
		if len(asked.Left) > 0 {
			*a = apply.Answer{Code: apply.Refused, Message: `request: json: unknown field "left"`}
		}
	}
	b.boxes[0].gate = func(r apply.Request) {
		if asked = r; len(r.Left) > 0 {
			b.boxes[0].set(func(x *box) { x.broken = true }) // and does nothing
		}
	}
	for _, id := range ids[:6] {
		b.drop(id)
	}
	must(t, b.round())
	if m := b.member(0); !strings.Contains(m.Halted, "6 of 10 rows") {
		t.Errorf("member %+v", m)
	}
}

// More than max(5, 2 %) of the rows that no run has dropped go only by an operator's word.
func TestShrinkHaltsUntilAWord(t *testing.T) {
	b := setup(t, 1, 1)
	ids := b.puts(10)
	must(t, b.round())
	before := b.boxes[0].live(t)
	b.lose(ids[:6]...)
	must(t, b.round())
	if m := b.member(0); !strings.Contains(m.Halted, "6 of 10 rows") || b.boxes[0].live(t) != before {
		t.Fatalf("member %+v", m)
	}
	if s := b.state(ids[9]); !strings.Contains(s.Problem, "halted") {
		t.Errorf("%+v", s)
	}
	n := len(b.boxes[0].asked)
	must(t, b.round())
	if len(b.boxes[0].asked) != n {
		t.Error("a halted member is asked")
	}
	// A resume alone meets the guard again.
	must(t, b.store.Resume(t.Context(), groupID, "dhcp-1", "0:root", "looked"))
	must(t, b.round())
	if m := b.member(0); m.Halted == "" || b.boxes[0].live(t) != before {
		t.Fatalf("member %+v", m)
	}
	must(t, b.store.ApproveShrink(t.Context(), groupID, b.known().Generation, "0:root", "moved away"))
	must(t, b.store.Resume(t.Context(), groupID, "dhcp-1", "0:root", "moved away"))
	must(t, b.round())
	if got := strings.Count(b.boxes[0].live(t), "host-"); got != 4 || !b.state(ids[9]).IsApplied() {
		t.Errorf("%d rows are live", got)
	}
	// The word was for that generation only.
	var more []string
	for n := range 8 {
		more = append(more, b.put(fmt.Sprint("more-", n)))
	}
	must(t, b.round())
	b.lose(more...)
	must(t, b.round())
	if b.member(0).Halted == "" {
		t.Error("a later shrink went through on an old word")
	}
}

// A store that is older than the appliance halts it and says so, and goes on by an operator's word.
func TestNewerGenerationHalts(t *testing.T) {
	b := setup(t, 1, 1)
	ahead := apply.Request{Unit: "dhcp", Fence: 1, Generation: 40, Files: []apply.File{{Name: "hosts.conf", Content: "# ours\nlater\n"}}, Rows: 1}
	ahead.SHA256 = apply.Sum(ahead.Files)
	if a := b.boxes[0].agent.Apply(t.Context(), ahead); a.Code != apply.Applied {
		t.Fatalf("%+v", a)
	}
	id := b.put("one")
	must(t, b.round())
	m := b.member(0)
	if !strings.Contains(m.Halted, "generation 40") || m.Applied != 40 || b.state(id).IsApplied() {
		t.Errorf("member %+v", m)
	}
	if got := b.boxes[0].live(t); got != "# ours\nlater\n" {
		t.Errorf("live: %q", got)
	}
	must(t, b.store.Resume(t.Context(), groupID, "dhcp-1", "0:root", "the backup is the truth"))
	must(t, b.round())
	if got := b.boxes[0].live(t); !strings.Contains(got, id+" one\n") || !b.state(id).IsApplied() {
		t.Errorf("after the word: %+v, live %q", b.member(0), got)
	}
}

// A database that was put back is told from one that is behind by what it never asked for, also when its generations have caught up with the
// appliance's: the appliance keeps what it has until an operator says otherwise. What was asked for and never answered is known again.
func TestForgottenStateHalts(t *testing.T) {
	b := setup(t, 1, 1)
	b.put("one")
	must(t, b.round())
	g := b.known()
	forgotten := apply.Request{Unit: "dhcp", Fence: 1, Generation: g.Generation + 1, Files: []apply.File{{Name: "hosts.conf", Content: "# ours\nforgotten\n"}}}
	forgotten.SHA256 = apply.Sum(forgotten.Files)
	if a := b.boxes[0].agent.Apply(t.Context(), forgotten); a.Code != apply.Applied { // by the life that is lost
		t.Fatalf("%+v", a)
	}
	id := b.put("two") // the same generation, in the life that goes on
	b.put("three")     // and a newer one
	for range 2 {
		_ = b.round()
		if got := b.boxes[0].live(t); got != "# ours\nforgotten\n" || b.state(id).IsApplied() {
			t.Fatalf("what the database has forgotten was overwritten: %q", got)
		}
	}
	if m := b.member(0); !strings.HasPrefix(m.Halted, "newer: ") || !strings.Contains(m.Halted, "does not remember") {
		t.Errorf("member %+v", m)
	}
	plan, err := New(b.cfg).Plan(t.Context(), groupID)
	if err != nil || !plan.Members[0].Newer || plan.Blocked() == "" {
		t.Errorf("plan %+v, %v", plan.Members, err)
	}
	must(t, b.store.Resume(t.Context(), groupID, "dhcp-1", "0:root", "looked"))
	must(t, b.round())
	if !b.state(id).IsApplied() {
		t.Errorf("after the word: %+v", b.member(0))
	}

	lost := b.put("four")                                                            // its answer never comes, and the store knows nothing but that it was asked for
	b.boxes[0].set(func(x *box) { x.lie = func(a *apply.Answer) { a.SHA256 = "" } }) // which is no answer
	_ = b.round()
	b.boxes[0].set(func(x *box) { x.lie = nil })
	b.put("five")
	b.until("it goes on", func() bool { _ = b.round(); return b.state(lost).IsApplied() })
}

// A worker whose lease went to another stops at the first answer that says so, and records nothing.
func TestStaleFenceStops(t *testing.T) {
	b := setup(t, 2, 1)
	b.boxes[0].gate = func(apply.Request) {
		must(t, b.store.ReleaseLease(t.Context(), "group:"+groupID, "worker-1"))
		lease, ok, err := b.store.AcquireLease(t.Context(), "group:"+groupID, "worker-2", time.Hour)
		if err != nil || !ok {
			t.Errorf("%v %v", ok, err)
		}
		newer := apply.Request{Unit: "dhcp", Fence: lease.Fence, Generation: 1, Files: []apply.File{{Name: "hosts.conf", Content: "# the other's\n"}}}
		newer.SHA256 = apply.Sum(newer.Files)
		if a := b.boxes[0].agent.Apply(t.Context(), newer); a.Code != apply.Applied {
			t.Errorf("%+v", a)
		}
	}
	id := b.put("one")
	if err := b.round(); err == nil || !strings.Contains(err.Error(), "another worker") {
		t.Errorf("error %v", err)
	}
	if b.state(id).IsApplied() || len(b.boxes[1].asked) != 0 || b.boxes[0].live(t) != "# the other's\n" {
		t.Error("it went on")
	}
	if m := b.member(0); m.Problem != "" || m.Dirty {
		t.Errorf("member %+v", m)
	}
	if err := b.round(); err != nil || b.state(id).IsApplied() {
		t.Errorf("without the lease: %v", err)
	}
}

// A database that was put back gives out fences that the appliance has seen before; it gets past them by itself.
func TestForgottenFence(t *testing.T) {
	b := setup(t, 1, 1)
	seen := apply.Request{Unit: "dhcp", Fence: 4, Generation: 0, Files: []apply.File{{Name: "hosts.conf", Content: "# ours\n"}}}
	seen.SHA256 = apply.Sum(seen.Files)
	if a := b.boxes[0].agent.Apply(t.Context(), seen); a.Code != apply.Applied {
		t.Fatalf("%+v", a)
	}
	must(t, b.store.Ask(t.Context(), groupID, seen.SHA256)) // before the backup
	id := b.put("one")
	for range 3 {
		if err := b.round(); err == nil || !strings.Contains(err.Error(), "older than the appliance") {
			t.Fatalf("error %v", err)
		}
	}
	if m := b.member(0); !strings.Contains(m.Problem, "stale") {
		t.Errorf("member %+v", m)
	}
	must(t, b.round())
	if !b.state(id).IsApplied() || b.member(0).Problem != "" {
		t.Errorf("%+v", b.member(0))
	}
}

// A lease that cannot be renewed ends the round: what is under way may be another worker's by then.
func TestLostLeaseEndsTheRound(t *testing.T) {
	b := setup(t, 1, 1)
	entered := make(chan struct{})
	b.cfg.Lease = 2 * time.Second
	b.cfg.Store = lostLease{b.store, entered}
	b.group.Members[0].Carrier = carrierFunc(func(ctx context.Context, _ apply.Request) (apply.Answer, error) {
		close(entered)
		<-ctx.Done()
		return apply.Answer{}, ctx.Err()
	})
	b.put("one")
	if err := b.round(); !errors.Is(err, errLeaseLost) {
		t.Errorf("error %v", err)
	}
	select {
	case <-entered:
	default:
		t.Error("the member was never asked")
	}
}

// lostLease is another worker's once the channel is closed.
type lostLease struct {
	orchestrator.Store
	lost <-chan struct{}
}

func (s lostLease) AcquireLease(ctx context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error) {
	select {
	case <-s.lost:
		return orchestrator.Lease{}, false, nil
	default:
		return s.Store.AcquireLease(ctx, name, holder, length)
	}
}

type carrierFunc func(context.Context, apply.Request) (apply.Answer, error)

func (f carrierFunc) Apply(ctx context.Context, r apply.Request) (apply.Answer, error) {
	return f(ctx, r)
}

// A worker that stops leaves the group to the next one at once.
func TestStopGivesTheLeaseBack(t *testing.T) {
	b := setup(t, 1, 1)
	b.cfg.Poll, b.cfg.Gather = time.Millisecond, time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { New(b.cfg).Run(ctx) })
	id := b.put("one")
	b.until("it is applied", func() bool { return b.state(id).IsApplied() })
	stop()
	running.Wait()
	if lease, ok, err := b.store.AcquireLease(t.Context(), "group:"+groupID, "worker-2", time.Minute); !ok || err != nil {
		t.Errorf("%+v %v", lease, err)
	}
}

func TestRefreshReadsBack(t *testing.T) {
	b := setup(t, 1, 1)
	b.put("one")
	must(t, b.round())
	must(t, b.loop().once(t.Context(), true))
	if a := b.boxes[0].answers; len(a) != 2 || a[1].Code != apply.Unchanged {
		t.Errorf("%+v", a)
	}
}

// A worker that dies after it has brought the members to a generation and before it could confirm it holds nobody up: the next one asks them
// again, and learns which entry the dead one had to leave out.
func TestUnconfirmed(t *testing.T) {
	b := setup(t, 2, 1)
	good, bad := b.put("one"), b.put("bad")
	b.cfg.Store = dyingAtConfirm{b.store}
	if err := b.round(); !errors.Is(err, orchestrator.ErrStoreAway) {
		t.Fatal(err)
	}
	if m := b.member(0); m.Applied != b.known().Generation || b.state(good).IsApplied() {
		t.Fatalf("the test is at another point: %+v", m)
	}
	b.cfg.Store = b.store
	must(t, b.round())
	if s := b.state(good); !s.IsApplied() || s.Bad != "" {
		t.Errorf("%+v", s)
	}
	if s := b.state(bad); s.Bad == "" {
		t.Errorf("the entry that no member carries counts as carried: %+v", s)
	}
	must(t, b.round())
	if n := len(b.boxes[0].applies()); n > 4 {
		t.Errorf("%d applies: the group finds no rest", n)
	}
}

// dyingAtConfirm is the store as a worker has it that dies before it confirms anything.
type dyingAtConfirm struct{ Store }

var errDied = orchestrator.Errorf("store", orchestrator.Transient, "%w", orchestrator.ErrStoreAway)

func (dyingAtConfirm) Confirm(context.Context, string, int64, int64, map[string]string) error {
	return errDied
}

func (dyingAtConfirm) MarkBad(context.Context, string, int64, map[string]string) error {
	return errDied
}
