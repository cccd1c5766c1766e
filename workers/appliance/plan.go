package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Errors of ApplyPlan besides the store's and the agents'.
var (
	// ErrPlanChanged: what would be applied now is not what was shown.
	ErrPlanChanged = errors.New("this is not what was shown any more")
	// ErrPlanBlocked: it is what was shown, and an operator's word is missing.
	ErrPlanBlocked = errors.New("the plan waits for an operator's word")
	// ErrPlanBusy: another worker applies to the group and did not stop in time.
	ErrPlanBusy = errors.New("another worker applies to this group")
)

// Plan is what an apply of a group's newest generation would do to its members as they are now.
type Plan struct {
	Group               string
	Unit                orchestrator.Unit
	Generation, Applied int64
	Rows                int               // machines in the state
	SHA256              string            // apply.Sum of the rendered files
	Problem             string            // why there is no state to apply; "" otherwise
	Bad                 map[string]string // entries that the renderer leaves out, and why
	Cut                 []netip.Addr      // whose connections would be cut, on one member or another
	Members             []MemberPlan      // in the order of the configuration
	// Hash stands for the whole: group, generation, rendered files, cuts, and what each member has. Two plans with one hash do the same.
	Hash string
}

// MemberPlan is one member's part.
type MemberPlan struct {
	Name       string
	Generation int64  // live
	Rows       int    // live
	Problem    string // why it could not be read; it is then left as it is
	Blocked    string // why an apply would not be let through, and the command for it; "" when it would
	Newer      bool   // it is blocked, or would be, for what it carries: the database has forgotten it
	Fault      string // why what runs is not what the files say; an apply loads them again
	Notes      []string
	Difference
	sum string       // apply.SumLive
	cut []netip.Addr // whose connections it would cut
}

// Differs reports whether an apply would change anything on the member.
func (m MemberPlan) Differs() bool {
	return m.Problem == "" && (len(m.Changes) > 0 || m.Omitted > 0 || m.Fault != "" || len(m.Notes) > 0)
}

// Empty reports whether every member was read and an apply would change none of them.
func (p Plan) Empty() bool {
	return p.Problem == "" && !slices.ContainsFunc(p.Members, func(m MemberPlan) bool { return m.Problem != "" || m.Differs() })
}

// Blocked is the first reason for which the plan would not be let through, "" when it would.
func (p Plan) Blocked() string {
	if p.Problem != "" {
		return p.Problem
	}
	read := 0
	for _, m := range p.Members {
		if m.Blocked != "" {
			return fmt.Sprintf("member %s: %s", m.Name, m.Blocked)
		}
		if m.Problem == "" {
			read++
		}
	}
	if read == 0 {
		return "no member could be read"
	}
	return ""
}

// observeTimeout bounds the reading of one member.
const observeTimeout = 30 * time.Second

// Plan reads the group's members and compares. It changes nothing, in the store or on an appliance; a member that cannot be read is part
// of the answer. An unknown group is ErrNotFound.
func (c *Controller) Plan(ctx context.Context, group string) (Plan, error) {
	l, err := c.loopOf(group)
	if err != nil {
		return Plan{}, err
	}
	r, members, err := l.fresh(ctx, 0)
	if err != nil {
		return Plan{}, err
	}
	p, _ := r.plan(ctx, members)
	return p, nil
}

func (c *Controller) loopOf(group string) (*loop, error) {
	for _, g := range c.Groups {
		if g.ID == group {
			return &loop{Controller: c, group: g, retry: map[string]backoff{}}, nil
		}
	}
	return nil, orchestrator.Errorf("appliance.Plan", orchestrator.Permanent, "group %s: %w", group, orchestrator.ErrNotFound)
}

// fresh reads what the store says now.
func (l *loop) fresh(ctx context.Context, fence int64) (*round, map[string]orchestrator.Member, error) {
	group, entries, err := l.Store.Entries(ctx, l.group.ID)
	if err != nil {
		return nil, nil, err
	}
	members, err := l.members(ctx)
	if err != nil {
		return nil, nil, err
	}
	approved, err := l.Store.ShrinkApproved(ctx, group.ID)
	if err != nil {
		return nil, nil, err
	}
	group, _ = standing(group, members)
	return &round{loop: l, fence: fence, group: group, entries: entries, bad: map[string]string{}, approved: approved >= group.Generation && approved > 0}, members, nil
}

// ApplyPlan applies the group's newest generation to the members that can be read, if that still is what hash stands for, under the
// group's lease as any apply. Every agent compares once more, under its own lock, with what it was seen to have. The plan that comes back
// is the one of now; the members are as the store knows them afterwards. Without an error the round was carried through, and each
// member's Problem says how it went there.
func (c *Controller) ApplyPlan(ctx context.Context, group, hash string) (now Plan, after []orchestrator.Member, err error) {
	l, err := c.loopOf(group)
	if err != nil {
		return Plan{}, nil, err
	}
	release, err := l.turn(ctx)
	if err != nil {
		return Plan{}, nil, err
	}
	defer release()
	lease, err := l.awaitLease(ctx)
	if err != nil {
		return Plan{}, nil, err
	}
	ctx, done := l.keep(ctx, lease.Fence)
	defer done()
	r, members, err := l.fresh(ctx, lease.Fence)
	if err != nil {
		return Plan{}, nil, err
	}
	now, due := r.plan(ctx, members)
	if ctx.Err() != nil {
		return now, nil, context.Cause(ctx)
	}
	if now.Hash != hash {
		return now, nil, fmt.Errorf("%w: group %s", ErrPlanChanged, group)
	}
	if why := now.Blocked(); why != "" {
		return now, nil, fmt.Errorf("%w: group %s: %s", ErrPlanBlocked, group, why)
	}
	r.expect = map[string]string{}
	for _, m := range now.Members {
		if m.Problem == "" {
			r.expect[m.Name] = m.sum
		}
	}
	err = r.apply(ctx, due, members)
	for _, m := range due {
		after = append(after, members[m.Name])
	}
	return now, after, err
}

// awaitLease waits as long as the lease of a worker that has nothing more to apply can last.
func (l *loop) awaitLease(ctx context.Context) (orchestrator.Lease, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.Lease+5*time.Second, ErrPlanBusy)
	defer cancel()
	for {
		lease, ours, err := l.Store.AcquireLease(ctx, l.leaseName(), l.Holder, l.Lease)
		if ours || err != nil {
			return lease, err
		}
		if !sleep(ctx, l.Lease/30) {
			return lease, context.Cause(ctx)
		}
	}
}

// plan renders, reads every member at once, and compares. due are the members that were read.
func (r *round) plan(ctx context.Context, members map[string]orchestrator.Member) (p Plan, due []Member) {
	p = Plan{Group: r.group.ID, Unit: r.loop.group.Unit, Generation: r.group.Generation, Applied: r.group.Applied}
	rendering, err := r.render()
	if err != nil {
		p.Problem = "there is no state to apply: " + err.Error()
	} else {
		p.Rows, p.SHA256, p.Bad = len(r.texts()), apply.Sum(rendering.Files), maps.Clone(r.bad)
	}
	names := r.names()
	appliances := r.loop.group.appliances()
	p.Members = make([]MemberPlan, len(appliances))
	var reading sync.WaitGroup
	for i, m := range appliances {
		reading.Go(func() {
			var answer apply.Answer
			err := errors.New("left out: " + members[m.Name].Held)
			if members[m.Name].Held == "" {
				answer, err = r.look(ctx, m)
			}
			p.Members[i] = r.member(members[m.Name], answer, err)
			r.remember(ctx, &p.Members[i], answer, p.SHA256)
			if p.Problem == "" && p.Members[i].Problem == "" {
				p.Members[i].compare(*answer.Live, rendering, names, r.loop.group)
			}
		})
	}
	reading.Wait()
	for i, m := range appliances {
		if p.Members[i].Problem == "" {
			due = append(due, m)
		}
		p.Cut = append(p.Cut, p.Members[i].cut...)
	}
	slices.SortFunc(p.Cut, netip.Addr.Compare)
	p.Cut = slices.Compact(p.Cut)
	p.Hash = p.hash()
	return p, due
}

// look asks a member's agent what is live.
func (r *round) look(ctx context.Context, m Member) (apply.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, min(r.Timeout, observeTimeout))
	defer cancel()
	ask := apply.Request{Unit: string(r.loop.group.Unit), ReadOnly: true, Rows: len(r.texts())}
	answer, err := m.Carrier.Apply(ctx, ask)
	if err == nil && answer.Live != nil && answer.Live.Shrinks != "" {
		explained, storeErr := r.explained(ctx)
		if storeErr != nil {
			return answer, storeErr
		}
		if explained != nil {
			ask.Left = explained.left
			if again, err := m.Carrier.Apply(ctx, ask); err == nil && again.Live != nil { // an older agent does not know the question
				answer = again
			}
		}
	}
	switch {
	case err != nil:
		return answer, fmt.Errorf("no answer: %w", orchestrator.Told(err))
	case answer.Code == apply.Refused && strings.Contains(answer.Message, "read_only"):
		return answer, errors.New("its agent is older than this worker and cannot be asked: install the same version")
	case answer.Code != apply.Observed || answer.Live == nil:
		return answer, fmt.Errorf("%s: %s", answer.Code, answer.Message)
	}
	return answer, nil
}

// remember blocks a member whose live state the store never asked for; see Store.Asked.
func (r *round) remember(ctx context.Context, m *MemberPlan, answer apply.Answer, sum string) {
	if m.Problem != "" || answer.SHA256 == "" || answer.SHA256 == sum {
		return
	}
	asked, err := r.Store.Asked(ctx, r.group.ID, answer.SHA256)
	switch {
	case err != nil:
		m.Problem = err.Error()
	case !asked:
		m.Newer = true
		if m.Blocked == "" {
			m.Blocked = fmt.Sprintf("it carries a state that the database does not remember to have asked for (generation %d)", answer.Generation)
		}
	}
}

// member says how a member stands beside its files.
func (r *round) member(known orchestrator.Member, answer apply.Answer, err error) MemberPlan {
	m := MemberPlan{Name: known.Name, Generation: answer.Generation}
	if err != nil {
		m.Problem = err.Error()
	}
	switch {
	case r.group.Held != "":
		m.Blocked = "the group waits for " + r.group.Held
	case known.Halted != "":
		m.Blocked = fmt.Sprintf("halted: %s; look at it, then: slipway group resume %s %s --yes --reason WHY", known.Halted, r.group.ID, m.Name)
	case err != nil:
	case answer.Generation > r.group.Generation:
		m.Newer = true
		m.Blocked = fmt.Sprintf("it carries generation %d, newer than the database's %d", answer.Generation, r.group.Generation)
	case answer.Live.Shrinks != "" && !r.approved:
		m.Blocked = fmt.Sprintf("%s; if that is meant: slipway group approve-shrink %s --yes --reason WHY", answer.Live.Shrinks, r.group.ID)
	}
	if err != nil {
		return m
	}
	live := answer.Live
	m.Rows, m.Fault, m.sum = live.Rows, live.Fault, apply.SumLive(live.Files)
	if live.Interrupted > 0 {
		m.Notes = append(m.Notes, fmt.Sprintf("an apply of generation %d was interrupted here and is put right first", live.Interrupted))
	}
	for _, f := range live.Files {
		if f.Exists && f.Mode != f.Want {
			m.Notes = append(m.Notes, fmt.Sprintf("%s has mode %04o and gets %04o", f.Name, f.Mode, f.Want))
		}
	}
	return m
}

// compare fills in the difference between what is there and what would be, and what it would cut.
func (m *MemberPlan) compare(live apply.Live, want Rendering, names map[string]string, g Group) {
	texts := map[string]apply.LiveFile{}
	for _, f := range live.Files {
		texts[f.Name] = f
	}
	d := differ{names: names, group: g}
	for _, f := range want.Files {
		owner := func(line int) string {
			if want.Owner == nil {
				return ""
			}
			return want.Owner(f.Name, line)
		}
		d.file(texts[f.Name], f, owner)
	}
	m.Difference = d.result()
	if g.Cuts != nil {
		from, to := map[string]string{}, map[string]string{}
		for _, f := range live.Files {
			if f.Exists {
				from[f.Name] = f.Content
			}
		}
		for _, f := range want.Files {
			to[f.Name] = f.Content
		}
		m.cut = g.Cuts(from, to)
	}
}

// hash covers what an apply would do. What only says whether it would be let through is not in it: a resume or an approval leaves it.
func (p Plan) hash() string {
	h := sha256.New()
	put := func(parts ...any) {
		for _, part := range parts {
			text := fmt.Sprint(part)
			_, _ = fmt.Fprintf(h, "%d:%s", len(text), text) // a hash never fails to write
		}
	}
	put("slipway plan 1", p.Group, p.Generation, p.SHA256, p.Problem != "", len(p.Cut))
	for _, a := range p.Cut {
		put(a)
	}
	put(len(p.Bad))
	for _, machine := range slices.Sorted(maps.Keys(p.Bad)) {
		put(machine, p.Bad[machine])
	}
	for _, m := range p.Members {
		put(m.Name, m.Problem != "", m.sum, m.Fault != "", len(m.Notes))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// HashAll stands for several plans together, in the order given; of one it is that plan's own.
func HashAll(plans []Plan) string {
	if len(plans) == 1 {
		return plans[0].Hash
	}
	h := sha256.New()
	for _, p := range plans {
		_, _ = fmt.Fprintf(h, "%d:%s%s\n", len(p.Group), p.Group, p.Hash)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// names maps the words by which a line is a machine's to the machine.
func (r *round) names() map[string]string {
	names := map[string]string{}
	for _, e := range r.entries {
		names[e.Machine] = e.Machine
		if r.loop.group.Names == nil {
			continue
		}
		for _, word := range slices.Concat(r.loop.group.Names(e.Machine, e.Live), r.loop.group.Names(e.Machine, e.Body)) {
			names[word] = e.Machine
		}
	}
	return names
}
