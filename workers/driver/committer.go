// Package driver holds the goroutines that the engine does not have: it claims runs, calls Tick until each is put down, keeps the leases
// alive, and gathers commits into groups.
package driver

import (
	"context"
	"errors"
	"time"

	"slipway/orchestrator"
)

// maxGroup bounds one group commit, so that a broken constraint in it is found in few splits.
const maxGroup = 256

// commitTimeout bounds one group commit; beyond it nobody knows what was committed.
const commitTimeout = 30 * time.Second

// Committer gathers the results that wait at one moment into one transaction. Nobody is told before it has returned.
type Committer struct {
	journal orchestrator.Journal
	queue   chan request
	stopped chan struct{}
}

type request struct {
	commit orchestrator.Commit
	answer chan orchestrator.CommitResult
}

// NewCommitter makes one; Run must be running for Commit to return.
func NewCommitter(journal orchestrator.Journal) *Committer {
	return &Committer{journal: journal, queue: make(chan request), stopped: make(chan struct{})}
}

var errStopped = errors.New("the committer has stopped")

// Commit returns when the result is durable or refused. The context is not looked at: a commit that was handed over is waited for, since
// its caller must not act as if it had not happened.
func (c *Committer) Commit(_ context.Context, commit orchestrator.Commit) orchestrator.CommitResult {
	r := request{commit: commit, answer: make(chan orchestrator.CommitResult, 1)}
	select {
	case c.queue <- r:
		return <-r.answer
	case <-c.stopped:
		return orchestrator.CommitResult{Err: orchestrator.E("commit", orchestrator.Transient, errors.Join(orchestrator.ErrStoreAway, errStopped))}
	}
}

// Run commits until the context ends; then it refuses everything. Call it once.
func (c *Committer) Run(ctx context.Context) {
	defer close(c.stopped)
	for {
		var group []request
		select {
		case <-ctx.Done():
			return
		case r := <-c.queue:
			group = append(group, r)
		}
	gather:
		for len(group) < maxGroup {
			select {
			case r := <-c.queue:
				group = append(group, r)
			default:
				break gather
			}
		}
		c.flush(ctx, group)
	}
}

func (c *Committer) flush(ctx context.Context, group []request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	commits := make([]orchestrator.Commit, len(group))
	for i, r := range group {
		commits[i] = r.commit
	}
	results := c.journal.Commit(ctx, commits)
	for i, r := range group {
		r.answer <- results[i]
	}
}
