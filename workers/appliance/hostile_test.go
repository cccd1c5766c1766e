package appliance

import (
	"math"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// An appliance that answers something else than what it was asked is not believed: nothing counts as carried, the other member is brought up
// to date all the same, and the reason names the member and what it said.
func TestAnswerToSomethingElseIsNotBelieved(t *testing.T) {
	other := apply.Sum([]apply.File{{Name: "hosts.conf", Content: "another group's"}})
	for name, tt := range map[string]struct {
		lie  func(*apply.Answer)
		says string
	}{
		"a success for a later generation":    {func(a *apply.Answer) { a.Generation += 1000 }, "generation 1001 is live, it was asked for 1"},
		"a success for the end of all":        {func(a *apply.Answer) { a.Generation = math.MaxInt64 }, "is live, it was asked for 1"},
		"a success for an earlier generation": {func(a *apply.Answer) { a.Generation = 0 }, "generation 0 is live"},
		"a success for another state":         {func(a *apply.Answer) { a.SHA256 = other }, "a state with the hash"},
		"a success for no state":              {func(a *apply.Answer) { a.SHA256 = "" }, "a state with the hash"},
		"nothing was to change, elsewhere":    {func(a *apply.Answer) { a.Code, a.SHA256 = apply.Unchanged, other }, "a state with the hash"},
		"a check that nobody asked for":       {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Checked} }, `"checked" to an apply`},
		"an answer to a look":                 {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Observed, Live: &apply.Live{}} }, `"observed" to an apply`},
		"an answer to a survey":               {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Surveyed, Survey: &apply.Survey{}} }, `"surveyed" to an apply`},
		"moved, and nothing was expected":     {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Moved} }, "nothing was expected"},
		"newer, and it is not":                {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Newer, Generation: 1} }, "newer than 1"},
		"newer than anything can be":          {func(a *apply.Answer) { *a = apply.Answer{Code: apply.Newer, Generation: math.MaxInt64} }, "newer than 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, 2, 1)
			b.boxes[0].set(func(x *box) { x.lie = tt.lie })
			m := b.put("honest")
			if err := b.round(); err != nil {
				t.Fatal(err)
			}
			liar, honest := b.member(0), b.member(1)
			if liar.Applied != 0 || !liar.Dirty || liar.Halted != "" || !strings.Contains(liar.Problem, tt.says) {
				t.Errorf("the liar is believed: %+v", liar)
			}
			if honest.Applied != 1 || honest.Dirty || b.state(m).Applied < b.state(m).Generation {
				t.Errorf("the other member: %+v, the entry: %+v", honest, b.state(m))
			}
			b.boxes[0].set(func(x *box) { x.lie = nil })
			if err := b.round(); err != nil {
				t.Fatal(err)
			}
			if liar = b.member(0); liar.Applied != 1 || liar.Dirty || liar.Problem != "" {
				t.Errorf("it has come to its senses: %+v", liar)
			}
		})
	}
}

// A lie to a check-only apply cannot make the search for a culprit end with a success.
func TestSuccessToACheckIsNotBelieved(t *testing.T) {
	ask := apply.Request{Generation: 3, SHA256: "ab", CheckOnly: true}
	if err := believe(ask, apply.Answer{Code: apply.Applied, Generation: 3, SHA256: "ab"}); err == nil {
		t.Error("an apply for a check")
	}
	if err := believe(ask, apply.Answer{Code: apply.Checked}); err != nil {
		t.Error(err)
	}
}

// What an appliance's transport says of it is a line that a terminal may show and a database keeps.
func TestWordsOfAnAwayMemberAreClean(t *testing.T) {
	b := setup(t, 1, 1)
	b.boxes[0].set(func(x *box) {
		x.away = true
		x.words = "ssh: disconnect: \x1b]0;owned\a\u202e\x00" + strings.Repeat("x", 1<<20)
	})
	b.put("one")
	if err := b.round(); err != nil {
		t.Fatal(err)
	}
	m := b.member(0)
	if want := orchestrator.OneLine(m.Problem, 2000); m.Problem != want || !strings.Contains(m.Problem, "disconnect: ]0;owned") {
		t.Errorf("%.100q", m.Problem)
	}
}
