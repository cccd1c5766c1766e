// Package appliance keeps groups of appliances at their desired state. Steps only change entries in the store; a Controller notices that
// a group's generation has risen, renders the whole state once for everybody who waits, and has the agent on each member apply it.
package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Carrier brings a request to a member's agent and its answer back. An error means that no answer came.
type Carrier interface {
	Apply(ctx context.Context, r apply.Request) (apply.Answer, error)
}

// Text is one machine's entry as it is to be rendered.
type Text struct {
	Machine string
	Body    json.RawMessage
	Backend orchestrator.ConsoleBackend // Entry.Backend
}

// Rendering is a group's whole state as files.
type Rendering struct {
	Files []apply.File
	// Owner names the machine that a line of a file is about, "" when it is about none.
	Owner func(file string, line int) string
}

// Renderer turns entries into files. Entries that it refuses by itself (a duplicate, an address outside every subnet) come back in bad
// with the reason, and nothing is rendered; an error is a fault of the configuration or the template and blames no machine.
type Renderer func(texts []Text) (r Rendering, bad map[string]string, err error)

// Member is one appliance of a group.
type Member struct {
	Name    string
	Carrier Carrier
	// Follow is in Carrier's place where the member reads the store by itself: it returns once that one has a generation, or says why not.
	// There are no files there to be planned or surveyed.
	Follow func(ctx context.Context, group string, generation int64) error
}

// appliances are the members that have files.
func (g Group) appliances() []Member {
	return slices.DeleteFunc(slices.Clone(g.Members), func(m Member) bool { return m.Follow != nil })
}

// Group is what a Controller knows about a group from the configuration.
type Group struct {
	ID       string
	Unit     orchestrator.Unit
	Members  []Member
	Render   Renderer
	Interval time.Duration // at least this long between two applies of this group; 0 is Config.Interval
	// Cuts says whose connections the agents cut when files (content by name) take the place of others, as their agent.Cutter does; nil for
	// units that cut nothing. A plan shows it.
	Cuts func(from, to map[string]string) []netip.Addr
	// Names are the words by which a line of a live file says that it is a machine's, besides the machine's id; body is nil for a machine
	// that the store does not know. Redact makes a line fit to be shown, and tells whether something was left out. Both may be nil.
	Names  func(machine string, body json.RawMessage) []string
	Redact func(line string) (shown string, secret bool)
}

// Store is what a Controller needs of it.
type Store interface {
	orchestrator.Appliances
	AcquireLease(ctx context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error)
	ReleaseLease(ctx context.Context, name, holder string) error
}

// Config is what a Controller needs.
type Config struct {
	Store  Store
	Groups []Group
	Holder string
	Log    *slog.Logger
	Woken  func() // called after a generation was confirmed: runs are due

	Gather   time.Duration // how long the first change waits for company; default 150 ms
	Interval time.Duration // at least this long between two applies of a busy group; default 1.5 s
	Poll     time.Duration // how often generations are looked at; default 300 ms
	Refresh  time.Duration // how often an unchanged state is read back on the members; default 5 min
	Timeout  time.Duration // of one apply on one member; default 60 s
	// Lease of a group, kept alive while it is applied; default 15 s. When a worker dies, its groups stand still for so long.
	Lease time.Duration
	Now   func() time.Time // default time.Now
}

// Controller applies. Several may run on one store: a group's lease decides who applies, and its fence keeps the others out.
type Controller struct {
	Config
	nudges map[string]chan struct{}
	loops  map[string]*loop
	turns  map[string]chan struct{} // of one: the group's loop and an operator's plan take turns, for their lease is the same
}

// New makes a Controller.
func New(c Config) *Controller {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Gather, 150*time.Millisecond)
	def(&c.Interval, 1500*time.Millisecond)
	def(&c.Poll, 300*time.Millisecond)
	def(&c.Refresh, 5*time.Minute)
	def(&c.Timeout, time.Minute)
	def(&c.Lease, 15*time.Second)
	if c.Woken == nil {
		c.Woken = func() {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	ctl := &Controller{Config: c, nudges: map[string]chan struct{}{}, turns: map[string]chan struct{}{}, loops: map[string]*loop{}}
	for _, g := range c.Groups {
		if g.Interval == 0 {
			g.Interval = c.Interval
		}
		ctl.nudges[g.ID] = make(chan struct{}, 1)
		ctl.turns[g.ID] = make(chan struct{}, 1)
		ctl.loops[g.ID] = &loop{Controller: ctl, group: g, retry: map[string]backoff{}}
	}
	return ctl
}

// Once brings one group's members to its newest generation, if any of them is behind. Run does that again and again; only who has a
// scheduler of his own calls it, and not while Run is at work.
func (c *Controller) Once(ctx context.Context, group string) error {
	l, ok := c.loops[group]
	if !ok {
		return fmt.Errorf("group %s is not in the configuration", group)
	}
	return l.once(ctx, false)
}

// Run applies until the context ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, l := range c.loops {
		wg.Go(func() { l.run(ctx) })
	}
	ticker := time.NewTicker(c.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.look(ctx)
	}
}

// look wakes the groups that have something to do.
func (c *Controller) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	groups, err := c.Store.Groups(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.Log.Warn("look at groups", "error", err)
		}
		return
	}
	for _, g := range groups {
		if nudge, ok := c.nudges[g.ID]; ok && g.Generation > g.Applied {
			select {
			case nudge <- struct{}{}:
			default:
			}
		}
	}
}

// loop is one group's goroutine.
type loop struct {
	*Controller
	group Group
	last  time.Time     // start of the last apply
	took  time.Duration // its slowest member that has taken it
	// crowded says that the last apply was wanted before it might begin, waiting that the next one is.
	crowded, waiting bool

	retry map[string]backoff
}

// dhcpShare is the part of the time, one in so many, in which a busy DHCP server is brought up to date: while it is restarted nobody gets an
// address.
const dhcpShare = 10

// interval is how long after the start of the last apply the next one may begin. When the lease has run out another worker begins anyway. Orders
// that come one by one are not made to wait for a burst.
func (l *loop) interval() time.Duration {
	if l.group.Unit != orchestrator.DHCP || !l.crowded { // the others take a new state without a break
		return l.group.Interval
	}
	return max(l.group.Interval, min(dhcpShare*l.took, l.Lease))
}

type backoff struct {
	failures int
	until    time.Time
}

func (l *loop) run(ctx context.Context) {
	defer l.leave(ctx)
	catchUp := time.NewTicker(2 * time.Second)
	defer catchUp.Stop()
	refreshed := time.Now()
	for {
		busy := false
		select {
		case <-ctx.Done():
			return
		case <-l.nudges[l.group.ID]:
			busy = true
		case <-catchUp.C:
		}
		pause := l.interval() - time.Since(l.last) // a round to catch up keeps the interval as well
		l.waiting = l.waiting || pause > 0
		if busy {
			pause = max(pause, l.Gather)
		}
		if pause > 0 && !sleep(ctx, pause) {
			return
		}
		refresh := time.Since(refreshed) > l.Refresh
		if refresh {
			refreshed = time.Now()
		}
		if err := l.once(ctx, refresh); err != nil && ctx.Err() == nil {
			l.Log.Warn("apply", "group", l.group.ID, "error", err)
		}
		l.waiting = len(l.nudges[l.group.ID]) > 0 // it came while this one was under way
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// maxCulprits bounds how many entries are taken out of one generation before the group is left for the next round.
const maxCulprits = 32

// once brings the group's members to its newest generation, if any of them is behind.
func (l *loop) once(ctx context.Context, refresh bool) error {
	group, _, err := l.Store.Entries(ctx, l.group.ID)
	if err != nil {
		return err
	}
	members, err := l.members(ctx)
	if err != nil {
		return err
	}
	group, stands := standing(group, members)
	due := l.due(group, members, refresh || unconfirmed(group, members))
	if !stands || len(due) == 0 {
		return nil
	}
	release, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	lease, ours, err := l.Store.AcquireLease(ctx, l.leaseName(), l.Holder, l.Lease)
	if err != nil || !ours {
		return err
	}
	l.last, l.took, l.crowded = l.Now(), 0, l.waiting
	ctx, done := l.keep(ctx, lease.Fence)
	defer done()
	// What was read before the lease was ours may be old.
	group, entries, err := l.Store.Entries(ctx, l.group.ID)
	if err != nil {
		return err
	}
	if members, err = l.members(ctx); err != nil {
		return err
	}
	if group, stands = standing(group, members); !stands {
		return nil
	}
	if due = l.due(group, members, refresh || unconfirmed(group, members)); len(due) == 0 {
		return nil
	}
	approved, err := l.Store.ShrinkApproved(ctx, group.ID)
	if err != nil {
		return err
	}
	r := &round{loop: l, fence: lease.Fence, group: group, entries: entries, bad: map[string]string{}, approved: approved >= group.Generation && approved > 0}
	return r.apply(ctx, due, members)
}

// turn waits until nobody else in this worker applies to the group.
func (l *loop) turn(ctx context.Context) (release func(), err error) {
	select {
	case l.turns[l.group.ID] <- struct{}{}:
		return func() { <-l.turns[l.group.ID] }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *loop) leaseName() string { return "group:" + l.group.ID }

var errLeaseLost = errors.New("the group's lease could not be kept: another worker may apply now")

// keep renews the group's lease until done is called. When it cannot, the context that comes back ends: what is under way may be another
// worker's by then, and the agent refuses the older fence.
func (l *loop) keep(ctx context.Context, fence int64) (_ context.Context, done func()) {
	held, lost := context.WithCancelCause(ctx)
	var renewer sync.WaitGroup
	renewer.Go(func() {
		ticker := time.NewTicker(l.Lease / 5)
		defer ticker.Stop()
		renewed := time.Now()
		for {
			select {
			case <-held.Done():
				return
			case <-ticker.C:
			}
			asked := time.Now()
			callCtx, cancel := context.WithTimeout(held, l.Lease/5)
			lease, ours, err := l.Store.AcquireLease(callCtx, l.leaseName(), l.Holder, l.Lease)
			cancel()
			switch {
			case err == nil && ours && lease.Fence == fence:
				renewed = asked
			case err == nil, time.Since(renewed) > l.Lease/2:
				lost(errLeaseLost)
				return
			}
		}
	})
	return held, func() {
		lost(nil)
		renewer.Wait()
	}
}

// leave gives the lease back when this worker stops, so that the next one need not wait until it runs out.
func (l *loop) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.Store.ReleaseLease(ctx, l.leaseName(), l.Holder); err != nil {
		l.Log.Debug("group's lease not given back, it runs out by itself", "group", l.group.ID, "error", err)
	}
}

// members joins the configured members with what the store knows of them.
func (l *loop) members(ctx context.Context) (map[string]orchestrator.Member, error) {
	known, err := l.Store.Members(ctx, l.group.ID)
	if err != nil {
		return nil, err
	}
	members := map[string]orchestrator.Member{}
	for _, m := range l.group.Members {
		members[m.Name] = orchestrator.Member{Group: l.group.ID, Name: m.Name}
	}
	for _, m := range known {
		if _, ok := members[m.Name]; ok {
			members[m.Name] = m
		}
	}
	return members, nil
}

// due are the members that are behind, the dirty ones first: one that was away must catch up before it counts. One that failed when it was
// asked last comes after all others, which need not wait until it fails again.
func (l *loop) due(group orchestrator.Group, members map[string]orchestrator.Member, refresh bool) []Member {
	var due []Member
	for _, m := range l.group.Members {
		known := members[m.Name]
		behind := known.Applied < group.Generation || known.Dirty || refresh
		if behind && known.Halted == "" && known.Held == "" && l.Now().After(l.retry[m.Name].until) {
			due = append(due, m)
		}
	}
	slices.SortStableFunc(due, func(a, b Member) int {
		return cmp.Or(boolInt(l.failing(a))-boolInt(l.failing(b)), boolInt(members[b.Name].Dirty)-boolInt(members[a.Name].Dirty))
	})
	return due
}

// unconfirmed reports that a worker brought the members to the newest generation and died before it could confirm it. They are asked
// again: only the dead one knew which entries it had to leave out.
func unconfirmed(group orchestrator.Group, members map[string]orchestrator.Member) bool {
	return group.Applied < group.Generation && carried(group, members) >= max(1, group.MinApplied)
}

// standing leaves out what is in maintenance; stands is false when nothing of the group is left to apply to.
func standing(group orchestrator.Group, members map[string]orchestrator.Member) (_ orchestrator.Group, stands bool) {
	group, n := group.Without(slices.Collect(maps.Values(members)))
	return group, n > 0 && group.Held == ""
}

// carried counts the members that carry the group's newest generation.
func carried(group orchestrator.Group, members map[string]orchestrator.Member) (n int) {
	for _, m := range members {
		if m.Applied >= group.Generation && !m.Dirty && m.Held == "" {
			n++
		}
	}
	return n
}

// failing reports that the member failed when this worker asked it last.
func (l *loop) failing(m Member) bool { return l.retry[m.Name].failures > 0 }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// round is one generation of one group on its way to the members.
type round struct {
	*loop
	fence    int64
	group    orchestrator.Group
	entries  []orchestrator.Entry
	bad      map[string]string // entries that this round found to break the file
	approved bool
	left     [][]string // Request.Left
	// expect is set for an operator's plan: what each member was seen to have (apply.SumLive). A member that has something else by now, or
	// an entry that has to go because the tool refuses it, ends the round: it would not be what was shown.
	expect map[string]string
}

// apply brings the members up to date. An entry that breaks the file is told so at once, also when the group does not get on for
// another reason.
func (r *round) apply(ctx context.Context, due []Member, members map[string]orchestrator.Member) error {
	confirmed, err := r.bring(ctx, due, members)
	if confirmed || len(r.bad) == 0 || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, r.Store.MarkBad(ctx, r.group.ID, r.fence, r.bad))
}

// bring asks one member after the other, never two at once; confirmed says that enough of them carry the generation.
func (r *round) bring(ctx context.Context, due []Member, members map[string]orchestrator.Member) (confirmed bool, err error) {
	rendering, err := r.render()
	if err != nil {
		return false, r.blame(ctx, due, members, err)
	}
	for i := 0; i < len(due); i++ {
		m := due[i]
		if r.failing(m) && !confirmed { // it may take its whole time to fail again, and nobody waits for it
			if confirmed, err = r.confirm(ctx, members); err != nil {
				return false, err
			}
		}
		asked := r.Now()
		answer, err := r.ask(ctx, m, members[m.Name], rendering)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err == nil && answer.Code == apply.Culprit && len(r.bad) < maxCulprits {
			found, findErr := r.culprit(ctx, m, rendering, answer)
			if findErr == nil && found != "" {
				r.bad[found], confirmed = answer.Message, false
				r.Log.Warn("an entry breaks the file and is taken out", "group", r.group.ID, "machine", found, "tool", answer.Message)
				if r.expect != nil {
					return false, fmt.Errorf("%w: the tool refuses the entry of machine %s: %s", ErrPlanChanged, found, answer.Message)
				}
				if rendering, err = r.render(); err != nil {
					return false, r.blame(ctx, due, members, err)
				}
				i-- // the same member again, without it
				continue
			}
			err = findErr
		}
		if err == nil && answer.Code == apply.Moved {
			return false, fmt.Errorf("%w: member %s: %s", ErrPlanChanged, m.Name, answer.Message)
		}
		if err == nil && answer.Code == apply.Stale {
			return false, r.stale(ctx, members[m.Name], answer)
		}
		if err == nil && answer.Code == apply.Applied {
			r.took = max(r.took, r.Now().Sub(asked))
		}
		known := r.learn(members[m.Name], answer, err)
		members[m.Name] = known
		r.rest(m, r.Now().Sub(asked))
		if err := r.Store.PutMember(ctx, known); err != nil {
			return false, err
		}
	}
	if confirmed {
		return true, nil
	}
	return r.confirm(ctx, members)
}

// rest keeps a failing member from taking more than a quarter of its group's time, however long it takes to fail.
func (r *round) rest(m Member, took time.Duration) {
	if b := r.retry[m.Name]; b.failures > 0 && b.until.Sub(r.Now()) < 3*took {
		b.until = r.Now().Add(3 * took)
		r.retry[m.Name] = b
	}
}

// stale is about a member that has seen a newer fence than ours. Mostly another worker has taken over. When the lease is still ours, it is
// the store that has forgotten: it was put back from a backup. Giving the lease back raises the fence, by one in each round, until the
// member listens again; what its generation says about the backup is the shrink guard's and the operator's matter.
func (r *round) stale(ctx context.Context, m orchestrator.Member, answer apply.Answer) error {
	lease, ours, err := r.Store.AcquireLease(ctx, r.leaseName(), r.Holder, r.Lease)
	if err != nil {
		return err
	}
	if !ours || lease.Fence != r.fence {
		return fmt.Errorf("member %s has seen a newer fence than %d: another worker applies", m.Name, r.fence)
	}
	m.Problem, m.Dirty, m.SeenAt = fmt.Sprintf("%s: %s; the database is older than the appliance", answer.Code, answer.Message), true, r.Now()
	return errors.Join(fmt.Errorf("member %s: %s", m.Name, m.Problem), r.Store.PutMember(ctx, m), r.Store.ReleaseLease(ctx, r.leaseName(), r.Holder))
}

// confirm tells the store once enough members carry the generation.
func (r *round) confirm(ctx context.Context, members map[string]orchestrator.Member) (confirmed bool, err error) {
	carriers := carried(r.group, members)
	if carriers < max(1, r.group.MinApplied) {
		return false, nil
	}
	if r.group.Applied >= r.group.Generation && len(r.bad) == 0 {
		return true, nil
	}
	if err := r.Store.Confirm(ctx, r.group.ID, r.fence, r.group.Generation, r.bad); err != nil {
		return false, err
	}
	r.Log.Info("generation applied", "group", r.group.ID, "generation", r.group.Generation, "entries", len(r.texts()), "members", carriers)
	r.Woken()
	return true, nil
}

// texts are the entries to render: each one's newest text, or, when that is bad, the one that was live before.
func (r *round) texts() []Text {
	var texts []Text
	for _, e := range r.entries {
		if e.Removed || e.Owner == orchestrator.OwnerForeign {
			continue
		}
		body := e.Body
		if e.Bad != "" || r.bad[e.Machine] != "" {
			body = e.Live
		}
		if body != nil {
			texts = append(texts, Text{Machine: e.Machine, Body: body, Backend: e.Backend})
		}
	}
	return texts
}

// render takes out the entries that the renderer refuses by itself, and renders the rest.
func (r *round) render() (Rendering, error) {
	for {
		rendering, bad, err := r.loop.group.Render(r.texts())
		if err != nil || len(bad) == 0 {
			return rendering, err
		}
		before := len(r.bad)
		for machine, why := range bad {
			if r.isNew(machine) {
				r.bad[machine] = why
			}
		}
		if len(r.bad) == before {
			return Rendering{}, fmt.Errorf("entries that are live are refused: %v", slices.Sorted(maps.Values(bad)))
		}
	}
}

// isNew reports whether taking the entry's newest text out changes anything.
func (r *round) isNew(machine string) bool {
	for _, e := range r.entries {
		if e.Machine == machine {
			return e.Bad == "" && r.bad[machine] == "" && string(e.Body) != string(e.Live)
		}
	}
	return false
}

// ask has a member apply. The store is told first, so that it knows the state again on any member that carries it, whatever becomes of the
// answer; and a member that says that it carries another one is asked once more if the store remembers that one as well.
func (r *round) ask(ctx context.Context, m Member, known orchestrator.Member, rendering Rendering) (apply.Answer, error) {
	sum := apply.Sum(rendering.Files)
	if err := r.Store.Ask(ctx, r.group.ID, sum); err != nil {
		return apply.Answer{}, err
	}
	carries := known.SHA256
	answer, err := r.send(ctx, m, rendering, false, sum, carries)
	if err == nil && answer.Code == apply.Newer && answer.Generation <= r.group.Generation && answer.SHA256 != carries {
		asked, err := r.Store.Asked(ctx, r.group.ID, answer.SHA256)
		if err != nil || !asked {
			return answer, err
		}
		carries = answer.SHA256
		if answer, err = r.send(ctx, m, rendering, false, sum, carries); err != nil {
			return answer, err
		}
	}
	if err != nil || answer.Code != apply.Shrink {
		return answer, err
	}
	explained, err := r.explained(ctx)
	if err != nil || explained == nil {
		return answer, err
	}
	again, err := explained.send(ctx, m, rendering, false, sum, carries)
	if err == nil && again.Code == apply.Refused { // an older agent
		return answer, nil
	}
	return again, err
}

// explained is the round with the machines that runs have dropped, whose rows are to go: what no run explains is what the shrink guard is
// for. It is asked for only when the guard has spoken; nil when no machine was dropped.
func (r *round) explained(ctx context.Context) (*round, error) {
	departed, err := r.Store.Departed(ctx, r.group.ID)
	if err != nil || len(departed) == 0 {
		return nil, err
	}
	with := *r
	with.left = nil
	for _, d := range departed {
		words := []string{d.Machine}
		if r.loop.group.Names != nil {
			words = append(words, r.loop.group.Names(d.Machine, d.Body)...)
		}
		with.left = append(with.left, words)
	}
	return &with, nil
}

func (r *round) send(ctx context.Context, m Member, rendering Rendering, checkOnly bool, known ...string) (apply.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	if m.Follow != nil {
		if checkOnly {
			return apply.Answer{Code: apply.Checked}, nil
		}
		err := m.Follow(ctx, r.group.ID, r.group.Generation)
		return apply.Answer{Code: apply.Applied, Generation: r.group.Generation, SHA256: apply.Sum(rendering.Files)}, err
	}
	request := apply.Request{
		Known: slices.DeleteFunc(known, func(s string) bool { return s == "" }),
		Unit:  string(r.loop.group.Unit), Fence: r.fence, Generation: r.group.Generation, SHA256: apply.Sum(rendering.Files), Files: rendering.Files,
		Rows: len(r.texts()), ShrinkApproved: r.approved, Left: r.left, CheckOnly: checkOnly, Expect: r.expect[m.Name],
	}
	answer, err := m.Carrier.Apply(ctx, request)
	if err != nil {
		return answer, fmt.Errorf("no answer: %w", orchestrator.Told(err))
	}
	if err := believe(request, answer); err != nil {
		return apply.Answer{}, fmt.Errorf("no answer to what was asked: %w", err)
	}
	return answer, nil
}

var errNoCulprit = errors.New("the tool refuses the file and no new entry is to blame")

// culprit finds the new entry that breaks the file: by the tool's line, else by halving the new entries with check-only applies.
func (r *round) culprit(ctx context.Context, m Member, rendering Rendering, answer apply.Answer) (string, error) {
	if answer.Line > 0 && rendering.Owner != nil {
		if machine := rendering.Owner(answer.File, answer.Line); machine != "" && r.isNew(machine) {
			return machine, nil
		}
	}
	var suspects []string
	for _, e := range r.entries {
		if !e.Removed && r.isNew(e.Machine) {
			suspects = append(suspects, e.Machine)
		}
	}
	if len(suspects) == 0 {
		return "", fmt.Errorf("%w: %s", errNoCulprit, answer.Message)
	}
	if ok, err := r.passesWithout(ctx, m, suspects); err != nil || !ok {
		return "", errors.Join(fmt.Errorf("%w: %s", errNoCulprit, answer.Message), err)
	}
	// The file breaks without those that are out, and passes when the suspects are out as well. Halve; the first half stays out once it is
	// known not to be the whole fault, for there may be a culprit in each.
	var out []string
	for len(suspects) > 1 {
		half := suspects[:len(suspects)/2]
		ok, err := r.passesWithout(ctx, m, slices.Concat(out, half))
		if err != nil {
			return "", err
		}
		if ok {
			suspects = half
		} else {
			out, suspects = slices.Concat(out, half), suspects[len(half):]
		}
	}
	return suspects[0], nil
}

// passesWithout checks the state without some entries' newest texts.
func (r *round) passesWithout(ctx context.Context, m Member, machines []string) (bool, error) {
	probe := &round{loop: r.loop, fence: r.fence, group: r.group, entries: r.entries, bad: maps.Clone(r.bad), approved: r.approved, expect: r.expect}
	for _, machine := range machines {
		probe.bad[machine] = "left out for the search"
	}
	rendering, err := probe.render()
	if err != nil {
		return false, err
	}
	answer, err := probe.send(ctx, m, rendering, true)
	if err != nil {
		return false, err
	}
	return answer.Code == apply.Checked, nil
}

// learn turns an answer into what the store keeps about the member.
func (r *round) learn(m orchestrator.Member, answer apply.Answer, err error) orchestrator.Member {
	switch {
	case err != nil:
		m.Problem = err.Error()
	case answer.Code == apply.Applied || answer.Code == apply.Unchanged:
		m.Problem = ""
	default:
		m.Problem = string(answer.Code) + ": " + answer.Message
	}
	if m.Problem == "" {
		delete(r.retry, m.Name)
		m.Applied, m.SHA256, m.Dirty, m.SeenAt = answer.Generation, answer.SHA256, false, r.Now()
		return m
	}
	m.Dirty = true
	if err == nil {
		m.SeenAt = r.Now()
		switch answer.Code {
		case apply.Newer, apply.Shrink: // these two need an operator's word; everything else heals by itself
			m.Halted = m.Problem
		}
		if answer.Code == apply.Newer {
			m.Applied, m.SHA256 = answer.Generation, answer.SHA256 // what it carries, whatever we know of
		}
	}
	b := r.retry[m.Name]
	b.failures++
	b.until = r.Now().Add(min(time.Second<<min(b.failures-1, 6), time.Minute))
	r.retry[m.Name] = b
	r.Log.Warn("member not brought up to date", "group", r.group.ID, "member", m.Name, "problem", m.Problem, "halted", m.Halted != "")
	return m
}

// blame records a fault that is no machine's on all members, so that operators and waiting runs see it.
func (r *round) blame(ctx context.Context, due []Member, members map[string]orchestrator.Member, fault error) error {
	for _, m := range due {
		known := r.learn(members[m.Name], apply.Answer{}, fault)
		if err := r.Store.PutMember(ctx, known); err != nil {
			return errors.Join(fault, err)
		}
	}
	return fault
}

// Settle returns once no worker applies to the group by what it read before the call, because the group's lease is this worker's for a
// moment. ErrPlanBusy when another one keeps it.
func (c *Controller) Settle(ctx context.Context, group string) error {
	l, err := c.loopOf(group)
	if err != nil {
		return err
	}
	release, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, err = l.awaitLease(ctx); err != nil {
		return err
	}
	return l.Store.ReleaseLease(ctx, l.leaseName(), l.Holder)
}
