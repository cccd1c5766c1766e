package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"slipway/internal/api"
)

// patience is how long serve may be away from one that watches.
const patience = 10 * time.Minute

type watchCmd struct {
	Machine  []string      `arg:"" optional:"" help:"Ids, prefixes of them, run ids, names, or tenant/name."`
	Pool     string        `help:"Every run of this pool that is not over, and those that begin meanwhile."`
	All      bool          `help:"Every run that is not over, and those that begin meanwhile."`
	Follow   bool          `help:"Go on when all are finished, until interrupted." short:"f"`
	Patience time.Duration `help:"How long serve may be away before this gives up." default:"10m"`
}

// Run follows runs until all are finished: exit code 0 when they are done, 1 when one is parked or canceled. On a terminal it is a board
// that is drawn anew in its place, otherwise a line per change, with -o json a value per change.
func (c watchCmd) Run(e *env) error {
	wide := c.All || c.Pool != ""
	switch {
	case len(c.Machine) == 0 && !wide:
		return hinted{error: errors.New("nothing to watch"), next: "slipway watch MACHINE…, --pool POOL or --all", code: exitUsage}
	case len(c.Machine) > 0 && wide:
		return hinted{error: errors.New("machines are watched by name, or all of them"), next: "slipway watch MACHINE…, --pool POOL or --all", code: exitUsage}
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	w := &watcher{ask: api.Watch{What: c.Machine, Active: wide, Pool: c.Pool}, client: client, patience: c.Patience, forever: c.Follow}
	show := e.shower()
	defer show.close()
	last, err := w.follow(e.ctx, show)
	show.close() // before anything else is said
	if err != nil {
		if c.Follow && errors.Is(err, context.Canceled) && e.ctx.Err() != nil {
			return nil // that is how it ends
		}
		return err
	}
	return verdictOf(last)
}

// shower shows one board after another; close leaves the terminal as it was, once.
type shower interface {
	show(b api.Board, away string) error
	close()
}

// watcher asks serve again and again.
type watcher struct {
	ask      api.Watch
	client   *api.Client
	patience time.Duration
	forever  bool
}

const (
	watchPause = 500 * time.Millisecond
	watchCall  = 20 * time.Second
	// watchOver is how long a run that is over stays on a board that is watched for ever.
	watchOver = 15 * time.Minute
)

// follow shows each answer until all runs are finished, or for ever. Once serve has answered, it may be away for a while.
func (w *watcher) follow(ctx context.Context, show shower) (last api.Board, err error) {
	var gone time.Time // since when it has not answered
	for first := true; ; first = false {
		board, err := w.once(ctx)
		switch {
		case err == nil:
			last, gone = board, time.Time{}
			if err := show.show(last, ""); err != nil {
				return last, err
			}
			if !w.forever && finished(last) {
				return last, nil
			}
		case ctx.Err() != nil:
		case first || !passes(err):
			return last, err
		default:
			if gone.IsZero() {
				gone = time.Now()
			}
			away := time.Since(gone)
			if away > w.patience {
				return last, hinted{error: fmt.Errorf("serve has been away for %s: %w", away.Round(time.Second), err), next: "slipway check", code: exitAway}
			}
			if err := show.show(last, err.Error()); err != nil {
				return last, err
			}
		}
		timer := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return last, hinted{error: fmt.Errorf("stopped before all were finished: %w", context.Cause(ctx)), next: "slipway list", code: exitFailure}
		case <-timer.C:
		}
	}
}

// once asks, and remembers what was shown so that it stays on the board. Names are looked up the first time only: a name may come to
// mean another machine.
func (w *watcher) once(ctx context.Context) (board api.Board, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchCall)
	defer cancel()
	if err := w.client.Post(ctx, "/v1/watch", w.ask, &board); err != nil {
		return board, err
	}
	w.ask.What, w.ask.Machines, w.ask.Runs = nil, nil, nil
	for _, r := range board.Runs[:min(len(board.Runs), api.MaxWatched)] {
		switch {
		case !w.ask.Active:
			w.ask.Machines = append(w.ask.Machines, r.Machine)
		case !w.forever || !over(r.Status) || board.Now.Sub(r.Updated) < watchOver:
			w.ask.Runs = append(w.ask.Runs, r.Run.Run)
		}
	}
	return board, nil
}

// passes: serve is being restarted, or its database is away.
func passes(err error) bool {
	var away *api.AwayError
	var refused *api.Error
	return errors.As(err, &away) || errors.As(err, &refused) && (refused.Code == api.CodeAway || refused.Code == api.CodeInternal)
}

// over: nothing happens to the run any more without somebody's word.
func over(status string) bool { return status == "done" || status == "parked" || status == "canceled" }

func finished(b api.Board) bool {
	for _, r := range b.Runs {
		if !over(r.Status) {
			return false
		}
	}
	return true
}

// maxNamed bounds the runs that an error names.
const maxNamed = 10

// verdictOf is what a script learns from the exit code.
func verdictOf(b api.Board) error {
	var bad []api.Watched
	for _, r := range b.Runs {
		if r.Status != "done" {
			bad = append(bad, r)
		}
	}
	switch {
	case len(bad) == 0:
		return nil
	case len(b.Runs) == 1 && bad[0].Status == "parked":
		return hinted{error: fmt.Errorf("parked at %s: %s", bad[0].Step, clean(bad[0].Reason)), next: "slipway explain " + bad[0].Machine, code: exitFailure}
	case len(b.Runs) == 1:
		return hinted{error: fmt.Errorf("canceled: %s", clean(bad[0].Reason)), next: "slipway show " + bad[0].Machine, code: exitFailure}
	}
	var lines strings.Builder
	fmt.Fprintf(&lines, "%d of %d are parked or canceled", len(bad), len(b.Runs))
	for _, r := range bad[:min(len(bad), maxNamed)] {
		fmt.Fprintf(&lines, "\n  %s %s: %s", clean(nameOf(r)), clean(r.Status), clip(r.Reason, 120))
	}
	if more := len(bad) - maxNamed; more > 0 {
		fmt.Fprintf(&lines, "\n  and %d more", more)
	}
	return hinted{error: errors.New(lines.String()), next: "slipway list --status parked", code: exitFailure}
}

func nameOf(r api.Watched) string { return r.Tenant + "/" + r.Name }
