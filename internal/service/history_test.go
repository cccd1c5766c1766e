package service

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
)

// The nearest rank: the smallest value that at least so many percent do not exceed.
func TestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tc := range []struct {
		sorted  []time.Duration
		percent int
		want    time.Duration
	}{
		{nil, 50, 0}, {[]time.Duration{7}, 50, 7}, {[]time.Duration{7}, 99, 7}, {[]time.Duration{1, 9}, 50, 1}, {[]time.Duration{1, 9}, 95, 9},
		{[]time.Duration{1, 2, 3}, 50, 2}, {hundred, 50, 50}, {hundred, 95, 95}, {hundred, 99, 99}, {hundred[:99], 99, 99}, {hundred[:10], 95, 10},
	} {
		if got := rank(tc.sorted, tc.percent); got != tc.want {
			t.Errorf("p%d of %d values is %d, want %d", tc.percent, len(tc.sorted), got, tc.want)
		}
	}
}

func threeSteps() *orchestrator.Process {
	return &orchestrator.Process{Name: "p", Rows: []orchestrator.Row{{From: "a", Step: "one", To: "b"}, {From: "b", Step: "two", To: "c"}, {From: "c", Step: "three", To: "d"}}}
}

// history of n runs: one takes 10 s, two 20 s, three 30 s in each; the last one took ten times as long.
func history(n int, skip string) *taken {
	var runs []orchestrator.RunDurations
	for i := range n {
		factor := time.Duration(1)
		if i == n-1 {
			factor = 10
		}
		r := orchestrator.RunDurations{Process: "p", Total: time.Minute * factor}
		for j, step := range []string{"one", "two", "three"} {
			s := orchestrator.StepDuration{Step: step, Took: time.Duration(j+1) * 10 * time.Second * factor}
			if step == skip {
				s.Took, s.Skipped = 0, true
			}
			r.Steps = append(r.Steps, s)
		}
		runs = append(runs, r)
	}
	runs = append(runs, orchestrator.RunDurations{Process: "p", Total: 1000 * time.Hour, Repaired: true, Steps: []orchestrator.StepDuration{{Step: "one", Took: 1000 * time.Hour}}})
	kinds, _ := gather(runs)
	return kinds[kindOfRun{process: "p"}]
}

// An estimate rests on enough runs of the same kind, or there is none.
func TestLeftIsNeverInvented(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	run := func(step string, since time.Duration) orchestrator.Run {
		return orchestrator.Run{Step: step, StepSince: now.Add(-since)}
	}
	for name, tc := range map[string]struct {
		run  orchestrator.Run
		t    *taken
		want time.Duration
		slow bool
		ok   bool
	}{
		"at the start":          {run("one", 0), history(20, ""), time.Minute, false, true},
		"in the middle":         {run("two", 5*time.Second), history(20, ""), 45 * time.Second, false, true},
		"longer than usual":     {run("three", 31*time.Second), history(21, ""), 0, true, true},
		"a skipped step":        {run("one", 0), history(20, "two"), 40 * time.Second, false, true},
		"no history":            {run("one", 0), nil, 0, false, false},
		"too little":            {run("one", 0), history(pastLeast-1, ""), 0, false, false},
		"just enough":           {run("one", 0), history(pastLeast, ""), time.Minute, false, true},
		"a step of no table":    {run("four", 0), history(20, ""), 0, false, false},
		"a step never seen":     {run("one", 0), &taken{totals: make([]time.Duration, 20), steps: map[string][]time.Duration{"one": make([]time.Duration, 20)}}, 0, false, false},
		"no step: it has ended": {run("", 0), history(20, ""), 0, false, false},
	} {
		got, of, slow, ok := left(threeSteps(), tc.run, tc.t, now)
		if got != tc.want || slow != tc.slow || ok != tc.ok || ok && of != len(tc.t.totals) {
			t.Errorf("%s: %s of %d, slow %t, %t; want %s, %t, %t", name, got, of, slow, ok, tc.want, tc.slow, tc.ok)
		}
	}
}

// A run that goes nowhere by itself has no end to estimate.
func TestOnlyRunsThatGoOnHaveAnEnd(t *testing.T) {
	now := time.Now()
	s := &Service{Processes: map[string]*orchestrator.Process{"p": threeSteps()}}
	for name, tc := range map[string]struct {
		change func(*orchestrator.Run)
		known  bool
	}{
		"running":  {func(*orchestrator.Run) {}, true},
		"waiting":  {func(r *orchestrator.Run) { r.Status = orchestrator.StatusWaiting }, true},
		"parked":   {func(r *orchestrator.Run) { r.Status = orchestrator.StatusParked }, false},
		"undoing":  {func(r *orchestrator.Run) { r.Undoing = true }, false},
		"canceled": {func(r *orchestrator.Run) { r.Cancel = "0:root" }, false},
		"in line":  {func(r *orchestrator.Run) { r.Status, r.Kind = orchestrator.StatusWaiting, orchestrator.Exhausted }, false},
		"done":     {func(r *orchestrator.Run) { r.Status, r.State, r.Step = orchestrator.StatusDone, "d", "" }, false},
	} {
		run := orchestrator.Run{Process: "p", State: "b", Step: "two", Status: orchestrator.StatusRunning, StepSince: now}
		tc.change(&run)
		w := s.watched(orchestrator.WatchedRun{RunView: orchestrator.RunView{Run: run}}, history(20, ""), now)
		if (w.Left != nil) != tc.known {
			t.Errorf("%s: left %v", name, w.Left)
		}
		if want := map[bool]int{true: 3, false: 1}[name == "done"]; w.Done != want || w.Steps != 3 {
			t.Errorf("%s: %d of %d steps", name, w.Done, w.Steps)
		}
	}
}

// Where a guest is comes from the journal, and what was before a rewind is another guest's.
func TestStages(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 5, 1, 12, 0, s, 0, time.UTC) }
	line := func(step string, number, from, to int, outcome string, change ...func(*orchestrator.Attempt)) orchestrator.Attempt {
		a := orchestrator.Attempt{Step: step, Number: number, Started: at(from), Ended: at(to), Outcome: outcome}
		for _, f := range change {
			f(&a)
		}
		return a
	}
	seen := func(a *orchestrator.Attempt) { a.Detail = json.RawMessage(`{"addressed":"2026-05-01T12:00:15Z"}`) }
	earlier := []orchestrator.Attempt{line(install.StepStart, 1, 1, 2, orchestrator.OutcomeDone), line(install.StepAwait, 1, 2, 3, orchestrator.OutcomeDone), line(install.StepInstall, 1, 3, 4, orchestrator.OutcomeFailed)}
	for name, tc := range map[string]struct {
		run  orchestrator.WatchedRun
		want []api.Stage
	}{
		"nothing yet": {orchestrator.WatchedRun{Lines: []orchestrator.Attempt{line(install.StepStart, 1, 1, 0, orchestrator.OutcomeOpen)}}, nil},
		"booting":     {orchestrator.WatchedRun{Lines: []orchestrator.Attempt{line(install.StepStart, 1, 1, 5, orchestrator.OutcomeDone), line(install.StepAwait, 1, 5, 0, orchestrator.OutcomeOpen)}}, []api.Stage{{Stage: api.StageBooting, At: at(5)}}},
		"addressed": {orchestrator.WatchedRun{
			RunView: orchestrator.RunView{Run: orchestrator.Run{Step: install.StepAwait, Handles: map[string]string{"addressed": "2026-05-01T12:00:09Z"}}},
			Lines:   []orchestrator.Attempt{line(install.StepStart, 1, 1, 5, orchestrator.OutcomeDone), line(install.StepAwait, 1, 5, 0, orchestrator.OutcomeOpen)},
		}, []api.Stage{{Stage: api.StageBooting, At: at(5)}, {Stage: api.StageAddressed, At: at(9)}}},
		"never seen to have its address": {orchestrator.WatchedRun{
			Lines: []orchestrator.Attempt{line(install.StepStart, 1, 1, 5, orchestrator.OutcomeDone), line(install.StepAwait, 1, 5, 20, orchestrator.OutcomeDone)},
		}, []api.Stage{{Stage: api.StageBooting, At: at(5)}, {Stage: api.StageReachable, At: at(20)}}},
		"all the way": {orchestrator.WatchedRun{Lines: []orchestrator.Attempt{
			line(install.StepStart, 1, 1, 5, orchestrator.OutcomeDone), line(install.StepAwait, 1, 5, 20, orchestrator.OutcomeDone, seen),
			line(install.StepInstall, 1, 20, 30, orchestrator.OutcomeFailed), line(install.StepInstall, 2, 31, 40, orchestrator.OutcomeDone),
		}}, []api.Stage{{Stage: api.StageBooting, At: at(5)}, {Stage: api.StageAddressed, At: at(15)}, {Stage: api.StageReachable, At: at(20)}, {Stage: api.StageInstalling, At: at(20)}, {Stage: api.StageInstalled, At: at(40)}}},
		"after a rewind": {orchestrator.WatchedRun{RunView: orchestrator.RunView{Run: orchestrator.Run{Rewound: 1}},
			Lines: append(earlier[:3:3], line(install.StepStart, 1, 5, 6, orchestrator.OutcomeUndone, func(a *orchestrator.Attempt) { a.Undo = true }), line(install.StepStart, 2, 50, 55, orchestrator.OutcomeDone)),
		}, []api.Stage{{Stage: api.StageBooting, At: at(55)}}},
		"bad words": {orchestrator.WatchedRun{Lines: []orchestrator.Attempt{line(install.StepAwait, 1, 5, 20, orchestrator.OutcomeFailed, func(a *orchestrator.Attempt) { a.Detail = json.RawMessage(`{"addressed":"soon"}`) })}}, nil},
	} {
		tc.run.Process = install.Name
		if diff := cmp.Diff(tc.want, stages(tc.run)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
