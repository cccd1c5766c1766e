package sqlstore

import (
	"slices"
	"strings"

	"slipway/orchestrator"
)

// rewinds are the verbs that lead a run back.
var rewinds = [...]string{orchestrator.VerbRewind, orchestrator.VerbAdopt}

// intervention is the statement of a verb, or what the run accepts instead.
func intervention(op string, run orchestrator.Run, i orchestrator.Intervention) (Stmt, error) {
	put := run.Status == orchestrator.StatusParked || run.Holder == "" && (run.Status == orchestrator.StatusWaiting || run.Status == orchestrator.StatusCanceling)
	forward := put && !run.Undoing && run.Cancel == "" && run.Status != orchestrator.StatusCanceling
	back := slices.Contains(rewinds[:], i.Verb)
	switch {
	case i.Verb == orchestrator.VerbRetry && put:
		return Stmt{
			SQL: `UPDATE runs SET status = CASE WHEN cancel <> '' OR undoing = 1 AND request = '' THEN 'canceling' ELSE 'ready' END,
				request = CASE WHEN undoing = 1 THEN request ELSE '' END, failures = 0, conflicts = 0,
				step_since = {now}, wake_at = {now}, updated_at = {now} WHERE id = $1`,
			Args: []any{run.ID},
		}, nil
	case i.Verb == orchestrator.VerbCancel && run.Status.Active():
		return Stmt{SQL: askCancel + ` WHERE id = $1`, Args: []any{run.ID, with(i.Actor, i.Reason)}}, nil
	case forward && (back || (i.Verb == orchestrator.VerbSkip || i.Verb == orchestrator.VerbForce) && i.Step == run.Step):
		asked := orchestrator.Request{Verb: i.Verb, Step: i.Step, By: with(i.Actor, i.Reason)}
		return Stmt{
			SQL: `UPDATE runs SET status = 'ready', request = $2, failures = 0, conflicts = 0, step_since = {now}, wake_at = {now}, updated_at = {now},
				rewound = CASE WHEN CAST($3 AS BIGINT) = 1 THEN (SELECT COALESCE(MAX(a.number), runs.attempt) FROM attempts a WHERE a.run = runs.id) ELSE rewound END
				WHERE id = $1`,
			Args: []any{run.ID, request(asked), flag(back)},
		}, nil
	}
	accepts := []string{}
	if put {
		accepts = append(accepts, orchestrator.VerbRetry)
	}
	if run.Status.Active() {
		accepts = append(accepts, orchestrator.VerbCancel)
	}
	if forward {
		accepts = append(accepts, rewinds[:]...)
		accepts = append(accepts, "skip and force of step "+run.Step)
	}
	exits := "it accepts " + strings.Join(accepts, ", ") + ", as far as its table allows"
	if len(accepts) == 0 {
		exits = "it has ended, so that it accepts nothing more"
	}
	what := i.Verb
	if i.Step != "" {
		what += " " + i.Step
	}
	return Stmt{}, orchestrator.Errorf(op, orchestrator.Permanent, "run %s is %s and does not accept %q: %s", run.ID, run.Status, what, exits)
}

// lineOf is what the journal says of an act: the reason, and where it leads.
func lineOf(i orchestrator.Intervention) string {
	if slices.Contains(rewinds[:], i.Verb) {
		return with("to "+i.Step, i.Reason)
	}
	return i.Reason
}

// with adds the reason, where there is one.
func with(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}

// request is as JSON, "" for none.
func request(r orchestrator.Request) string {
	if r == (orchestrator.Request{}) {
		return ""
	}
	return text(r)
}
