package orchestrator_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func marked(cancelable bool) *orchestrator.Process {
	row := func(from orchestrator.State, step string, to orchestrator.State, m orchestrator.Marks) orchestrator.Row {
		return orchestrator.Row{From: from, Step: step, To: to, Do: done, Marks: m}
	}
	return &orchestrator.Process{Name: "p", Cancelable: cancelable, Rows: []orchestrator.Row{
		row("s0", "reserve", "s1", orchestrator.Marks{}),
		row("s1", "make", "s2", orchestrator.Marks{Adopt: true}),
		row("s2", "tell", "s3", orchestrator.Marks{Skip: true}),
		row("s3", "fill", "s4", orchestrator.Marks{UndoneWith: "make"}),
		row("s4", "look", "s5", orchestrator.Marks{Check: true}),
	}}
}

func TestTargets(t *testing.T) {
	for name, test := range map[string]struct {
		run    orchestrator.Run
		oneWay bool
		want   map[string][]string
	}{
		"start":             {run: orchestrator.Run{State: "s0", Step: "reserve"}, want: map[string][]string{"rewind": {"reserve"}}},
		"make":              {run: orchestrator.Run{State: "s1", Step: "make"}, want: map[string][]string{"rewind": {"make", "reserve"}, "adopt": {"make"}}},
		"skip":              {run: orchestrator.Run{State: "s2", Step: "tell"}, want: map[string][]string{"skip": {"tell"}, "rewind": {"tell", "make", "reserve"}, "adopt": {"make"}}},
		"not undone alone":  {run: orchestrator.Run{State: "s3", Step: "fill"}, want: map[string][]string{"rewind": {"make", "reserve"}}},
		"check":             {run: orchestrator.Run{State: "s4", Step: "look"}, want: map[string][]string{"force": {"look"}, "rewind": {"look", "make", "reserve"}}},
		"only forward":      {run: orchestrator.Run{State: "s2", Step: "tell"}, oneWay: true, want: map[string][]string{"skip": {"tell"}}},
		"on its way back":   {run: orchestrator.Run{State: "s4", Step: "look", Undoing: true}},
		"canceled":          {run: orchestrator.Run{State: "s4", Step: "look", Cancel: "op"}},
		"another table":     {run: orchestrator.Run{State: "s4", Step: "gaze"}},
		"an unknown state":  {run: orchestrator.Run{State: "s9", Step: "look"}},
		"has come to s end": {run: orchestrator.Run{State: "s5"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.run.Status = orchestrator.StatusParked
			got := map[string][]string{}
			for _, verb := range []string{"retry", "cancel", "skip", "force", "rewind", "adopt", "explode"} {
				if steps := orchestrator.Targets(test.run, marked(!test.oneWay), verb); len(steps) > 0 {
					got[verb] = steps
				}
			}
			if test.want == nil {
				test.want = map[string][]string{}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	over := orchestrator.Run{State: "s4", Step: "look", Status: orchestrator.StatusDone}
	if got := orchestrator.Targets(over, marked(true), orchestrator.VerbRewind); len(got) > 0 {
		t.Errorf("a run that is over: %v", got)
	}
}

func TestMarksAreChecked(t *testing.T) {
	for name, change := range map[string]func(*orchestrator.Process){
		"undone with a later row":  func(p *orchestrator.Process) { p.Rows[1].Marks.UndoneWith = "look" },
		"undone with itself":       func(p *orchestrator.Process) { p.Rows[3].Marks.UndoneWith = "fill" },
		"undone twice":             func(p *orchestrator.Process) { p.Rows[3].Undo = done },
		"makes and may be skipped": func(p *orchestrator.Process) { p.Rows[1].Marks.Skip = true },
		"checks and may be left":   func(p *orchestrator.Process) { p.Rows[4].Marks.Skip = true },
	} {
		p := marked(true)
		change(p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := marked(true).Validate(); err != nil {
		t.Error(err)
	}
}

func TestCheckIsPassedByForceAlone(t *testing.T) {
	failure := errors.New("shut")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx     context.Context
		request orchestrator.Request
		want    error
	}{
		"nobody asked":         {t.Context(), orchestrator.Request{}, failure},
		"retried":              {t.Context(), orchestrator.Request{Verb: orchestrator.VerbAdopt, Step: "look"}, failure},
		"another step's":       {t.Context(), orchestrator.Request{Verb: orchestrator.VerbForce, Step: "fill"}, failure},
		"the worker is ending": {ended, orchestrator.Request{Verb: orchestrator.VerbForce, Step: "look"}, failure},
		"forced":               {t.Context(), orchestrator.Request{Verb: orchestrator.VerbForce, Step: "look"}, nil},
	} {
		s := &step{Run: orchestrator.Run{Step: "look", Request: test.request}}
		if err := s.Check(test.ctx, failure); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Check(test.ctx, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A journal that does not fit its table is told line by line, and leads nowhere else.
func TestReplay(t *testing.T) {
	run := orchestrator.Run{ID: "r"}
	line := func(run, step string, from, to orchestrator.State, undo bool, outcome string) orchestrator.Attempt {
		return orchestrator.Attempt{Run: run, Step: step, From: from, To: to, Undo: undo, Outcome: outcome}
	}
	moves, end := orchestrator.Replay(t.Context(), run, marked(true), []orchestrator.Attempt{
		line("r", "reserve", "s0", "s1", false, "failed"),
		line("r", "reserve", "s0", "s1", false, "done"),
		line("other", "make", "s1", "s2", false, "done"),
		line("r", "make", "s1", "s2", false, "done"),
		line("r", "tell", "s2", "s3", false, "skipped"),
		line("r", "fill", "s3", "s4", true, "undone"), // what was being walked
		line("r", "tell", "s2", "s3", true, "undone"),
		line("r", "look", "s4", "s5", false, "done"),  // cannot be
		line("r", "look", "s4", "s5", true, "undone"), // cannot be
		line("r", "tell", "s2", "s2", false, "rewind"),
		line("r", "make", "s1", "s2", true, "undone"),
	})
	var states, problems []string
	for _, m := range moves {
		states = append(states, string(m.After))
		if m.Problem != "" {
			problems = append(problems, m.Problem)
		}
	}
	if diff := cmp.Diff("s0 s1 s2 s3 s3 s2 s2 s2 s2 s1", strings.Join(states, " ")); diff != "" || end != "s1" || len(problems) != 2 {
		t.Errorf("ends in %s, problems %q\n%s", end, problems, diff)
	}
}
