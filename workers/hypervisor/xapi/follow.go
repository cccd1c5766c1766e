package xapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	eventWait   = 30 * time.Second      // how long event.from blocks when nothing happens
	eventGrace  = 10 * time.Second      // what the answer may take beyond that
	eventPace   = 20 * time.Millisecond // between two answers, at the least: a pool that has something to say all the time is heard fifty times a second
	firstPause  = time.Second           // after a failure, doubled up to
	longestStop = 30 * time.Second
)

type event struct {
	Class     string          `json:"class"`
	Operation string          `json:"operation"`
	Ref       Ref             `json:"ref"`
	Snapshot  json.RawMessage `json:"snapshot"`
}

type eventBatch struct {
	Events []event `json:"events"`
	Token  string  `json:"token"`
}

// Follow reports every change of every task of the pool until ctx ends: a pending one when it appears, its end, and TaskGone when xapi
// dropped it, also while we were not looking. Reports are hints to look (ObserveTask): several changes may come as one, and after a
// reconnection old ones come again. A pool that tells of more tasks than it can have (maxFollowed) is not listened to beyond that: who waits
// for one of them looks by himself. onTask is called from Follow's goroutine and must not block.
//
// Follow has a session of its own (a blocked event.from holds up and endangers the session's other calls), counts against no concurrency
// bound, and goes through failures with pauses from 1 s to 30 s. It returns ctx's error. One Follow per pool is enough.
func (c *Client) Follow(ctx context.Context, onTask func(task Ref, status TaskStatus)) error {
	f := &follower{c: c, session: newSession(c.wire, c.members, c.cfg, c.cfg.Originator+"-events"), onTask: onTask, pending: map[Ref]bool{}}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLogout)
		defer cancel()
		_ = f.session.close(ctx) // the session may be gone, and the process is leaving
	}()
	pause := firstPause
	for {
		asked := time.Now()
		err := f.next(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			pause = firstPause
			if !sleep(ctx, eventPace-time.Since(asked)) {
				return context.Cause(ctx)
			}
			continue
		}
		f.token = "" // everything anew: what went missing meanwhile shows by its absence
		c.cfg.Logger.WarnContext(ctx, "task events interrupted", "err", err, "again_in", pause)
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, longestStop)
	}
}

type follower struct {
	c       *Client
	session *session
	onTask  func(Ref, TaskStatus)
	token   string
	pending map[Ref]bool // reported as pending and not yet as ended
}

// next asks once and reports what came.
func (f *follower) next(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, eventWait+eventGrace, fmt.Errorf("event.from: no answer within %s", eventWait+eventGrace))
	defer cancel()
	login, err := f.session.get(ctx, nil, nil)
	if err != nil {
		return err
	}
	var batch eventBatch
	dump := f.token == ""
	// The pool object always exists, so that a dump answers at once, with a token, even where there is no task; without it such a dump
	// blocks and gives "" back.
	classes := []string{"task", "pool"}
	if err := f.session.call(ctx, "event.from", &batch, []any{classes, f.token, eventWait.Seconds()}); err != nil {
		return err
	}
	if now, err := f.session.get(ctx, nil, nil); err != nil || now != login {
		f.token = "" // renewed on the way: after a restart of xapi no deletion is told, so ask for everything
		return err
	}
	f.report(batch, dump)
	if f.token = batch.Token; f.token == "" {
		return errors.New("event.from: an answer without a token")
	}
	return nil
}

func (f *follower) report(batch eventBatch, dump bool) {
	seen := map[Ref]bool{}
	for _, e := range batch.Events {
		if e.Class != "task" || !e.Ref.valid() {
			continue // unknown classes are xapi's right; "DummyRef:" tasks are its own
		}
		if len(seen) == maxFollowed {
			f.c.cfg.Logger.Warn("more task events at once than a pool has tasks: the rest is not looked at", "events", len(batch.Events))
			break
		}
		seen[e.Ref] = true
		if e.Operation == "del" {
			f.tell(e.Ref, TaskGone)
			continue
		}
		var r taskRecord
		if err := json.Unmarshal(e.Snapshot, &r); err != nil {
			continue
		}
		if status := taskStatus(r.Status); status != "" {
			f.tell(e.Ref, status)
		}
	}
	if !dump {
		return
	}
	for ref := range f.pending {
		if !seen[ref] {
			f.tell(ref, TaskGone)
		}
	}
}

func (f *follower) tell(ref Ref, status TaskStatus) {
	known := f.pending[ref]
	switch {
	case status != TaskPending:
		delete(f.pending, ref)
	case len(f.pending) < maxFollowed:
		f.pending[ref] = true
	}
	if status == TaskGone && !known {
		return // finished and reported before, or never ours to see
	}
	f.onTask(ref, status)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
