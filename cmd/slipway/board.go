package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"slipway/internal/api"
)

// shower is a board on a terminal, otherwise lines.
func (e *env) shower() shower {
	if e.Output == "json" {
		return &changes{write: func(r api.Watched) error { return e.line(r) }, stderr: e.stderr}
	}
	f, ok := e.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return &changes{stderr: e.stderr, write: func(r api.Watched) error {
			_, err := fmt.Fprintln(e.stdout, lineOf(r))
			return err
		}}
	}
	return newScreen(f, os.Getenv("NO_COLOR") == "", func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width < 1 || height < 1 {
			return 80, 24
		}
		return width, height
	})
}

// changes writes each run whenever something of it is another than before.
type changes struct {
	write  func(api.Watched) error
	stderr io.Writer
	before map[string]string
	away   bool
}

func (c *changes) show(b api.Board, away string) error {
	if away != "" {
		if !c.away {
			c.away = true
			fmt.Fprintln(c.stderr, "slipway: waiting for serve:", clean(away))
		}
		return nil
	}
	if c.away {
		c.away = false
		fmt.Fprintln(c.stderr, "slipway: serve is back")
	}
	if c.before == nil {
		c.before = map[string]string{}
		if len(b.Runs) == 0 {
			fmt.Fprintln(c.stderr, "slipway: nothing is under way")
		}
	}
	for _, r := range b.Runs {
		now := strings.Join([]string{r.Status, r.State, r.Step, r.Reason, fmt.Sprint(len(r.Guest), r.Undoing)}, "\x00")
		if c.before[r.Run.Run] == now {
			continue
		}
		c.before[r.Run.Run] = now
		if err := c.write(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) close() {}

// lineOf is a run on a line: when, who, how, where, how far its guest is, what is left, and why it waits.
func lineOf(r api.Watched) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %-9s %-10s %s", r.Updated.Local().Format("15:04:05"), nameOf(r), r.Status, r.Process, r.State)
	if stage := r.Guest; len(stage) > 0 && !over(r.Status) {
		last := stage[len(stage)-1]
		fmt.Fprintf(&b, " [%s %s]", last.Stage, last.At.Local().Format("15:04:05"))
	}
	if left := leftOf(r); left != "" {
		fmt.Fprintf(&b, " (%s left)", left)
	}
	if r.Reason != "" {
		b.WriteString(": " + r.Reason)
	}
	return clean(b.String())
}

// leftOf is the estimate, "" where there is none.
func leftOf(r api.Watched) string {
	if r.Left == nil {
		return ""
	}
	return "~" + short(time.Duration(*r.Left*float64(time.Second)))
}

// short is a duration in two units at most.
func short(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// What a screen sends to its terminal, and nothing else: texts of others are cleaned before.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate one, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	beginFrame  = "\x1b[?2026h\x1b[H" // all at once, where the terminal can
	endFrame    = "\x1b[J\x1b[?2026l"
	endLine     = "\x1b[K\r\n"

	plain  = ""
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

// screen draws boards in place on the terminal's alternate screen, and leaves the last one on the ordinary one.
type screen struct {
	out    io.Writer
	color  bool
	size   func() (width, height int)
	opened bool
	last   *api.Board
	away   string
}

func newScreen(out io.Writer, color bool, size func() (int, int)) *screen {
	return &screen{out: out, color: color, size: size}
}

func (s *screen) show(b api.Board, away string) error {
	s.last, s.away = &b, away
	width, height := s.size()
	var frame strings.Builder
	if !s.opened {
		s.opened = true
		frame.WriteString(enterScreen)
	}
	frame.WriteString(beginFrame)
	lines := s.frame(b, away, width, height)
	for i, line := range lines {
		frame.WriteString(line)
		if i < len(lines)-1 {
			frame.WriteString(endLine)
		} else {
			frame.WriteString("\x1b[K") // a line's end in the last line would scroll
		}
	}
	frame.WriteString(endFrame)
	_, err := io.WriteString(s.out, frame.String()) // in one write: nothing half is seen
	return err
}

func (s *screen) close() {
	if !s.opened {
		return
	}
	s.opened = false
	var out strings.Builder
	out.WriteString(leaveScreen)
	if s.last != nil {
		width, _ := s.size()
		for _, line := range s.frame(*s.last, s.away, width, 1<<20) {
			out.WriteString(line + "\r\n")
		}
	}
	_, _ = io.WriteString(s.out, out.String()) // the terminal may be gone
}

// span is a text in one colour.
type span struct{ text, color string }

// paint puts spans into one line that is as wide as the terminal at most. Widths are those on the screen: some letters take two cells.
func (s *screen) paint(width int, spans ...span) string {
	var b strings.Builder
	for _, part := range spans {
		words := fit(clean(part.text), width)
		width -= text.StringWidth(words)
		if s.color && part.color != plain && words != "" {
			words = "\x1b[" + part.color + "m" + words + "\x1b[0m"
		}
		b.WriteString(words)
	}
	return b.String()
}

// fit cuts a text to so many cells.
func fit(words string, cells int) string {
	if cells <= 0 {
		return ""
	}
	if text.StringWidth(words) <= cells {
		return words
	}
	used := 0
	for i, r := range words {
		w := text.RuneWidth(r)
		if used+w > cells-1 {
			return words[:i] + "…"
		}
		used += w
	}
	return words
}

// cell is fit and filled up.
func cell(words string, cells int) string {
	words = fit(clean(words), cells)
	return words + strings.Repeat(" ", max(0, cells-text.StringWidth(words)))
}

const (
	nameCells   = 24
	statusCells = 10
	stepCells   = 24
	timeCells   = 8
	barCells    = 12
	wide        = 110 // from here on there is room for a bar
)

// frame is a board's lines: never more than height, never wider than width.
func (s *screen) frame(b api.Board, away string, width, height int) []string {
	lines := []string{s.paint(width, span{summary(b), bold}, span{"  " + b.Now.Local().Format("15:04:05"), dim})}
	if away != "" {
		lines = append(lines, s.paint(width, span{"serve does not answer, trying again: " + away, yellow}))
	}
	if len(b.Runs) == 0 {
		lines = append(lines, s.paint(width, span{"nothing is under way", dim}))
		return lines[:min(len(lines), max(1, height))]
	}
	name := 4
	for _, r := range b.Runs {
		name = max(name, min(nameCells, text.StringWidth(clean(nameOf(r)))))
	}
	bar := ""
	if width >= wide {
		bar = cell("", barCells+2)
	}
	lines = append(lines, s.paint(width, span{cell("NAME", name+1) + cell("STATUS", statusCells) + bar + cell("STEP", stepCells) + cell("FOR", timeCells) + cell("LEFT", timeCells) + "WHERE", dim}))
	rows := b.Runs
	room := height - len(lines)
	if len(rows) > room {
		rows = mostTelling(rows, max(0, room-1))
	}
	left := width - name - 1 - statusCells - text.StringWidth(bar) - stepCells - 2*timeCells // for where and why
	details, more := make([][]string, len(rows)), 0
	for i, r := range rows {
		details[i] = detailsOf(r, b.Now, left)
		more += len(details[i])
	}
	spacious := len(rows)+more <= room
	for i, r := range rows {
		lines = append(lines, s.row(r, b.Now, name, width))
		for _, detail := range details[i] {
			if spacious {
				lines = append(lines, s.paint(width, span{"  " + detail, dim}))
			}
		}
	}
	if hidden := len(b.Runs) - len(rows); hidden > 0 {
		lines = append(lines, s.paint(width, span{fmt.Sprintf("… and %d more: make the terminal higher, or name some", hidden), dim}))
	}
	return lines[:min(len(lines), max(1, height))]
}

// hasGuest: the run has a guest whose way is worth telling.
func hasGuest(r api.Watched) bool {
	return len(r.Guest) > 0 && r.Status != "done" && r.Status != "canceled"
}

// detailsOf are the lines below a run's own, where the terminal is high enough: its guest's way, and a reason that does not fit.
func detailsOf(r api.Watched, now time.Time, room int) (lines []string) {
	if hasGuest(r) {
		lines = append(lines, journey(r, now))
	}
	if why := clean(r.Reason); text.StringWidth(whereOf(r, now)+why) > room {
		lines = append(lines, why)
	}
	return lines
}

// whereOf is where a run's guest is, and since when.
func whereOf(r api.Watched, now time.Time) string {
	if !hasGuest(r) {
		return ""
	}
	last := r.Guest[len(r.Guest)-1]
	where := last.Stage + " " + short(now.Sub(last.At))
	if r.Reason != "" {
		where += ": "
	}
	return clean(where)
}

// summary counts runs by how they are.
func summary(b api.Board) string {
	counts := map[string]int{}
	for _, r := range b.Runs {
		switch r.Status {
		case "done", "parked", "canceled", "canceling":
			counts[r.Status]++
		default:
			counts["under way"]++
		}
	}
	words := []string{fmt.Sprintf("%d runs", len(b.Runs))}
	if len(b.Runs) == 1 {
		words[0] = "1 run"
	}
	for _, status := range []string{"under way", "canceling", "parked", "canceled", "done"} {
		if n := counts[status]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, status))
		}
	}
	if b.Omitted {
		words = append(words, "and more that are not looked at")
	}
	return strings.Join(words, ", ")
}

// mostTelling keeps so many rows, in their order: parked ones first, then those under way, then those that are over, the newest of each.
func mostTelling(rows []api.Watched, n int) []api.Watched {
	weight := func(r api.Watched) int {
		switch r.Status {
		case "parked":
			return 0
		case "done", "canceled":
			return 2
		default:
			return 1
		}
	}
	order := make([]int, len(rows))
	for i := range order {
		order[i] = len(rows) - 1 - i
	}
	slices.SortStableFunc(order, func(a, b int) int { return weight(rows[a]) - weight(rows[b]) })
	order = order[:n]
	slices.Sort(order)
	kept := make([]api.Watched, n)
	for i, at := range order {
		kept[i] = rows[at]
	}
	return kept
}

func (s *screen) row(r api.Watched, now time.Time, name, width int) string {
	step, since, left := fmt.Sprintf("%d/%d %s", r.Done, r.Steps, r.Step), "", leftOf(r)
	color := plain
	switch r.Status {
	case "done":
		color, step = green, r.State
		since = short(r.Updated.Sub(r.Created))
	case "parked":
		color = red
		since = short(now.Sub(r.Updated))
	case "canceled":
		color, step = yellow, r.State
		since = short(r.Updated.Sub(r.Created))
	case "canceling":
		color = yellow
	}
	if r.Undoing {
		step = "undo " + r.Step
	}
	if !r.Since.IsZero() && !over(r.Status) {
		since = short(now.Sub(r.Since))
	}
	timing := plain
	if r.Slow {
		timing = yellow
	}
	spans := []span{{cell(nameOf(r), name) + " ", bold}, {cell(r.Status, statusCells), color}}
	if width >= wide {
		spans = append(spans, span{barOf(r), color}, span{"  ", plain})
	}
	spans = append(spans, span{cell(step, stepCells-1) + " ", plain}, span{cell(since, timeCells-1) + " ", timing}, span{cell(left, timeCells-1) + " ", plain})
	return s.paint(width, append(spans, span{whereOf(r, now), plain}, span{r.Reason, color})...)
}

// barOf is how many of its steps a run has behind it.
func barOf(r api.Watched) string {
	full := 0
	if r.Steps > 0 {
		full = min(barCells, max(0, barCells*r.Done/r.Steps))
	}
	return strings.Repeat("█", full) + strings.Repeat("░", barCells-full)
}

// journey is the way of a guest: when it reached each stage, and how long it was there.
func journey(r api.Watched, now time.Time) string {
	var parts []string
	for i, stage := range r.Guest {
		until := now
		if i+1 < len(r.Guest) {
			until = r.Guest[i+1].At
		}
		part := fmt.Sprintf("%s %s", stage.Stage, stage.At.Local().Format("15:04:05"))
		if stage.Stage != api.StageInstalled {
			part += " " + short(until.Sub(stage.At))
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " → ")
}
