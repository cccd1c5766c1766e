package orchestratortest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// The ways in which Exercise disturbs a walk, in the order of the table's columns.
const (
	hitTwice    = "twice"
	hitFailed   = "failed"
	hitBefore   = "killed before"
	hitDuring   = "killed during"
	hitAfter    = "killed after"
	hitTaken    = "taken over"
	hitLost     = "answer lost"
	hitLate     = "request late"
	hitAway     = "store away"
	hitService  = "service away"
	hitCanceled = "canceled"
	hitOrdered  = "overtaken"
	hitRandom   = "at random"
)

func hits() []string {
	return []string{hitTwice, hitFailed, hitBefore, hitDuring, hitAfter, hitTaken, hitLost, hitLate, hitAway, hitService, hitCanceled, hitOrdered, hitRandom}
}

// Tally counts the disturbed walks of several subjects and how many of them converged. Safe for concurrent use; a nil one counts nothing.
type Tally struct {
	mu        sync.Mutex
	processes map[string]*tallied
	subjects  map[string]int
}

type tallied struct {
	rows      map[string]bool // steps whose Do was called twice
	points    map[string]int  // by the way
	converged map[string]int
}

// NewTally makes an empty one.
func NewTally() *Tally { return &Tally{processes: map[string]*tallied{}, subjects: map[string]int{}} }

func (y *Tally) of(process string) *tallied {
	p, ok := y.processes[process]
	if !ok {
		p = &tallied{rows: map[string]bool{}, points: map[string]int{}, converged: map[string]int{}}
		y.processes[process] = p
	}
	return p
}

func (y *Tally) point(process, hit string, converged bool) {
	if y == nil {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	p := y.of(process)
	p.points[hit]++
	if converged {
		p.converged[hit]++
	}
}

func (y *Tally) row(process, step string) {
	if y == nil {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.of(process).rows[step] = true
}

func (y *Tally) subject(name string) {
	if y == nil {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.subjects[name]++
}

// Subjects are the names of those that were exercised, each with how often.
func (y *Tally) Subjects() map[string]int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return maps.Clone(y.subjects)
}

// Rows are the steps of a process that were reached.
func (y *Tally) Rows(process string) []string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return slices.Sorted(maps.Keys(y.of(process).rows))
}

// Table is what was counted: a line for each process, a column for each way, and a last line with the sums.
func (y *Tally) Table() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "| Process | Rows | %s | Points | Converged |\n|---|%s---|---|\n", strings.Join(hits(), " | "), strings.Repeat("---|", len(hits())+1))
	rows, points, converged := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(y.processes)) {
		p := y.processes[name]
		all, good := 0, 0
		fmt.Fprintf(&b, "| %s | %d |", name, len(p.rows))
		for _, hit := range hits() {
			all, good = all+p.points[hit], good+p.converged[hit]
			switch n, c := p.points[hit], p.converged[hit]; {
			case n == 0:
				b.WriteString(" - |")
			case n == c:
				fmt.Fprintf(&b, " %d |", n)
			default:
				fmt.Fprintf(&b, " %d of %d |", c, n)
			}
		}
		fmt.Fprintf(&b, " %d | %d |\n", all, good)
		rows, points, converged = rows+len(p.rows), points+all, converged+good
	}
	percent := 0
	if points > 0 {
		percent = 100 * converged / points
	}
	fmt.Fprintf(&b, "\n    harness: processes=%d rows=%d points=%d converged=%d (%d %%)\n", len(y.processes), rows, points, converged, percent)
	return b.String()
}
