package simulation

import (
	"context"
	"errors"
	"strings"
	"time"

	"slipway/orchestrator"
)

// database is the way of a worker to the store: every call of it is a point where the scheduler may go on with somebody else, and where
// something may go wrong before or after the transaction.
type database struct {
	orchestrator.Store
	s *simulation
}

// write makes a call that changes something. Between enter and leave nobody else runs: a transaction is one moment.
func (d database) write(name string, f func() error) error {
	c := call{class: storeCall, name: name}
	if err := d.s.enter(c); err != nil {
		return away(err)
	}
	err := f()
	switch name {
	case "AcquireLease", "ReleaseLease", "PutMember", "SyncPool", "EndQuarantine", "MarkPublished": // make no run due and write no event
	default:
		d.s.changed()
	}
	if err != nil {
		return err
	}
	return away(d.s.leave(c))
}

func (d database) read(name string, f func() error) error {
	c := call{class: storeCall, name: name}
	if err := d.s.enter(c); err != nil {
		return away(err)
	}
	if err := f(); err != nil {
		return err
	}
	return away(d.s.leave(c))
}

// away is how a store says that it does not know.
func away(err error) error {
	if err == nil || errors.Is(err, orchestrator.ErrStoreAway) {
		return err
	}
	return orchestrator.Errorf("store", orchestrator.Transient, "%w: %w", orchestrator.ErrStoreAway, err)
}

// commitTimeout is the committer's.
const commitTimeout = 30 * time.Second

// commit is the engine's way: like the committer's, it is waited for whatever becomes of its caller.
func (d database) commit(ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
	s := d.s
	if s.hooks.Commit != nil {
		return s.hooks.Commit(&committer{d}, ctx, c)
	}
	return (&committer{d}).Commit(ctx, c)
}

// committer makes one commit, and is what a defect may stand in front of.
type committer struct{ d database }

func (m *committer) Commit(ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
	s := m.d.s
	at := call{class: storeCall, name: "Commit", blind: true}
	asked := s.now
	if err := s.enter(at); err != nil {
		return orchestrator.CommitResult{Err: away(err)}
	}
	result := m.d.Store.Commit(context.WithoutCancel(ctx), []orchestrator.Commit{c})[0]
	s.changed()
	if result.Err != nil {
		return result
	}
	s.committed(c, result)
	if err := s.leave(at); err != nil {
		return orchestrator.CommitResult{Err: away(err)}
	}
	if s.now.Sub(asked) > commitTimeout {
		return orchestrator.CommitResult{Err: errStoreGone}
	}
	return result
}

func (d database) Accept(ctx context.Context, a orchestrator.Acceptance) (out orchestrator.Accepted, err error) {
	err = d.write("Accept", func() (err error) { out, err = d.Store.Accept(ctx, a); return err })
	return out, err
}

func (d database) Refuse(ctx context.Context, key orchestrator.OrderKey, e orchestrator.Event) error {
	return d.write("Refuse", func() error { return d.Store.Refuse(ctx, key, e) })
}

func (d database) Claim(ctx context.Context, ask orchestrator.Ask) (out []orchestrator.Claim, err error) {
	err = d.write("Claim", func() (err error) {
		out, err = d.Store.Claim(ctx, ask)
		d.s.claimed(out)
		return err
	})
	if err != nil {
		out = nil
	}
	return out, err
}

func (d database) Renew(ctx context.Context, holder string, runs map[string]int64, lease time.Duration) (lost []string, err error) {
	err = d.write("Renew", func() (err error) { lost, err = d.Store.Renew(ctx, holder, runs, lease); return err })
	return lost, err
}

func (d database) ReleaseRuns(ctx context.Context, holder string, runs map[string]int64) error {
	return d.write("ReleaseRuns", func() error { return d.Store.ReleaseRuns(ctx, holder, runs) })
}

func (d database) Wake(ctx context.Context, keys ...string) (n int, err error) {
	err = d.write("Wake", func() (err error) { n, err = d.Store.Wake(ctx, keys...); return err })
	return n, err
}

func (d database) AcquireLease(ctx context.Context, name, holder string, length time.Duration) (lease orchestrator.Lease, ours bool, err error) {
	err = d.write("AcquireLease", func() (err error) {
		lease, ours, err = d.Store.AcquireLease(ctx, name, holder, length)
		return err
	})
	return lease, ours && err == nil, err
}

func (d database) ReleaseLease(ctx context.Context, name, holder string) error {
	return d.write("ReleaseLease", func() error { return d.Store.ReleaseLease(ctx, name, holder) })
}

func (d database) Entries(ctx context.Context, group string) (g orchestrator.Group, entries []orchestrator.Entry, err error) {
	err = d.read("Entries", func() (err error) { g, entries, err = d.Store.Entries(ctx, group); return err })
	return g, entries, err
}

func (d database) EntryState(ctx context.Context, group, machine string) (state orchestrator.EntryState, err error) {
	err = d.read("EntryState", func() (err error) { state, err = d.Store.EntryState(ctx, group, machine); return err })
	return state, err
}

func (d database) Members(ctx context.Context, group string) (members []orchestrator.Member, err error) {
	err = d.read("Members", func() (err error) { members, err = d.Store.Members(ctx, group); return err })
	return members, err
}

func (d database) ShrinkApproved(ctx context.Context, group string) (generation int64, err error) {
	err = d.read("ShrinkApproved", func() (err error) { generation, err = d.Store.ShrinkApproved(ctx, group); return err })
	return generation, err
}

func (d database) Departed(ctx context.Context, group string) (departed []orchestrator.Departure, err error) {
	err = d.read("Departed", func() (err error) { departed, err = d.Store.Departed(ctx, group); return err })
	return departed, err
}

func (d database) PutMember(ctx context.Context, m orchestrator.Member) error {
	return d.write("PutMember", func() error { return d.Store.PutMember(ctx, m) })
}

func (d database) Confirm(ctx context.Context, group string, fence, generation int64, bad map[string]string) error {
	return d.write("Confirm", func() error { return d.Store.Confirm(ctx, group, fence, generation, bad) })
}

func (d database) MarkBad(ctx context.Context, group string, fence int64, bad map[string]string) error {
	return d.write("MarkBad", func() error { return d.Store.MarkBad(ctx, group, fence, bad) })
}

func (d database) Unpublished(ctx context.Context, limit int) (events []orchestrator.Event, err error) {
	err = d.read("Unpublished", func() (err error) { events, err = d.Store.Unpublished(ctx, limit); return err })
	return events, err
}

func (d database) MarkPublished(ctx context.Context, ids []int64) error {
	return d.write("MarkPublished", func() error { return d.Store.MarkPublished(ctx, ids) })
}

func (d database) SyncPool(ctx context.Context, inv orchestrator.Inventory) error {
	return d.write("SyncPool", func() error { return d.Store.SyncPool(ctx, inv) })
}

func (d database) EndQuarantine(ctx context.Context) (n int, err error) {
	err = d.write("EndQuarantine", func() (err error) { n, err = d.Store.EndQuarantine(ctx); return err })
	return n, err
}

// shortLeases gives leases the length that they have by the simulation's clock: those who ask for them count by the real one, where theirs
// must never run out.
type shortLeases struct{ database }

func (d shortLeases) AcquireLease(ctx context.Context, name, holder string, _ time.Duration) (orchestrator.Lease, bool, error) {
	asked := d.s.now
	lease, ours, err := d.database.AcquireLease(ctx, name, holder, shortLease)
	if group, ok := strings.CutPrefix(name, "group:"); ok && ours {
		if g := d.s.current.process.applying[group]; g != nil && g.fence == 0 {
			g.fence, g.renewed = lease.Fence, asked
		}
	}
	return lease, ours, err
}
