package orchestratortest

import (
	"fmt"
	"slices"
	"strings"

	"slipway/orchestrator"
)

// States writes the page of the process tables: a diagram and a table of rows for each. It is the same for the same tables.
func States(processes ...*orchestrator.Process) string {
	var b strings.Builder
	b.WriteString(`# States

<!-- Written from the process tables by: go test ./orchestrator/orchestratortest -run TestStatesPage -update -->

A run walks one table, row by row. Its *state* is a word of that table; how it is doing there is its *status*, the same words for every table:

| Status | Meaning | Goes on |
|---|---|---|
| ready | may be taken by a worker | by itself |
| running | a worker holds it | by itself |
| waiting | for a task, a boot, an appliance, a job, capacity or its next attempt | by itself |
| parked | stopped in its state after a failure that no repetition helps | by ` + "`retry`, `cancel` or a [repair](operations.md#repair)" + ` |
| canceling | on its way back, row by row | by itself |
| done | at the end of its table | – |
| canceled | back at the beginning, or ended for a process that took over | – |

A row may be walked more than once; its effect exists once. *Timeout* bounds one call of a row, *budget* the whole row with its waits (waiting for
capacity does not count), *attempts* the failures in a row before the run parks; the pause between them begins at *backoff* and doubles up to *at most*.
A row that is skipped where it does not apply is marked with *; the journal says why. *Repair* is what an operator may do at a row beyond retry and
cancel: ` + "`skip`" + ` leaves it out, ` + "`force`" + ` passes its checks where they fail, ` + "`adopt`" + ` takes over a VM that carries the machine's tag. A process that can be
canceled can be rewound to any row that was begun; past a row that is undone *with* another one, to that one or further.
`)
	for _, p := range processes {
		fmt.Fprintf(&b, "\n## %s\n\n", p.Name)
		if p.Cancelable {
			b.WriteString("A cancel walks back by the same rows.\n\n")
		} else {
			b.WriteString("It only goes forward: a parked run is tried again.\n\n")
		}
		fmt.Fprintf(&b, "```mermaid\n%s```\n\n", p.Mermaid())
		b.WriteString("| From | Step | To | Undo | Repair | Timeout | Budget | Attempts | Backoff | At most |\n|---|---|---|---|---|---|---|---|---|---|\n")
		for _, row := range p.Rows {
			step, undo := row.Step, "–"
			if row.When != nil {
				step += " *"
			}
			switch {
			case row.Undo != nil:
				undo = "yes"
			case row.Marks.UndoneWith != "":
				undo = "with " + row.Marks.UndoneWith
			}
			policy := row.Policy.WithDefaults()
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %d | %s | %s |\n", row.From, step, row.To, undo, repair(row.Marks),
				short(policy.Timeout), short(policy.Budget), policy.Attempts, short(policy.Backoff), short(policy.MaxBackoff))
		}
	}
	return b.String()
}

// repair is the verbs that a row's marks allow.
func repair(m orchestrator.Marks) string {
	var verbs []string
	for verb, may := range map[string]bool{orchestrator.VerbSkip: m.Skip, orchestrator.VerbForce: m.Check, orchestrator.VerbAdopt: m.Adopt} {
		if may {
			verbs = append(verbs, verb)
		}
	}
	if len(verbs) == 0 {
		return "–"
	}
	slices.Sort(verbs)
	return strings.Join(verbs, ", ")
}

// short is "5m" where a Duration says "5m0s".
func short(d fmt.Stringer) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
