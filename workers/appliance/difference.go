package appliance

import (
	"iter"
	"maps"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Difference is what separates the files of a member from those that would be there.
type Difference struct {
	Added, Removed, Altered int // machines
	Changes                 []Change
	Omitted                 int // lines beyond maxShown, which are not in Changes
}

// Change is one machine's lines in one file, or the lines of a file that are no machine's.
type Change struct {
	File    string
	Machine string // "" when the lines are no machine's
	Kind    string // "added", "removed" or "changed"
	Lines   []Line
}

// Line goes (Op '-') or comes ('+').
type Line struct {
	Op     byte
	Text   string // as far as it may be shown
	Secret bool   // a part of it may not: two lines that look alike differ there
}

// maxShown bounds the lines of one member's difference, and maxLine each one in bytes. The numbers are of all.
const (
	maxShown = 5000
	maxLine  = 500
)

type key struct{ file, machine string }

// tally is what one side of a comparison has of a machine in a file.
type tally struct{ gone, came, kept int }

type differ struct {
	names map[string]string
	group Group

	order   []key
	changes map[key]*Change
	tallies map[key]tally
	shown   int
	omitted int
}

// file compares one file. Lines are aligned by those that occur once on each side, in n log n, so that a big file is no burden.
func (d *differ) file(live apply.LiveFile, want apply.File, owner func(line int) string) {
	if d.changes == nil {
		d.changes, d.tallies = map[key]*Change{}, map[key]tally{}
	}
	if live.Exists && live.Content == want.Content && live.SHA256 == apply.Digest(want.Content) {
		return
	}
	names := d.widened(live.Content)
	old, next := whole(live.Content), whole(want.Content)
	oldOwners, nextOwners := owners(old, names, nil), owners(next, names, owner)
	oldLine, nextLine := 0, 0 // of the next context line; both count from 0
	kept := func(untilOld int) {
		for ; oldLine < untilOld; oldLine, nextLine = oldLine+1, nextLine+1 {
			d.count(key{want.Name, nextOwners[nextLine]}, ' ')
		}
	}
	differs := false
	for h := range hunks(diff.Diff("", []byte(old), "", []byte(next))) {
		kept(h.old)
		for _, line := range h.lines {
			differs = differs || line[0] != ' '
			switch line[0] {
			case '-':
				d.add(key{want.Name, oldOwners[oldLine]}, '-', line[1:])
				oldLine++
			case '+':
				d.add(key{want.Name, nextOwners[nextLine]}, '+', line[1:])
				nextLine++
			default:
				kept(oldLine + 1)
			}
		}
	}
	kept(len(oldOwners))
	if !differs && live.Exists {
		d.note(want.Name, "(the end of the last line, or bytes that are no text)")
	} else if !differs {
		d.note(want.Name, "(an empty file)")
	}
}

func (d *differ) count(k key, op byte) {
	t := d.tallies[k]
	switch op {
	case '-':
		t.gone++
	case '+':
		t.came++
	default:
		t.kept++
	}
	d.tallies[k] = t
}

func (d *differ) add(k key, op byte, text string) {
	d.count(k, op)
	c, ok := d.changes[k]
	if !ok {
		c = &Change{File: k.file, Machine: k.machine}
		d.changes[k] = c
		d.order = append(d.order, k)
	}
	if d.shown >= maxShown {
		d.omitted++
		return
	}
	d.shown++
	line := Line{Op: op, Text: text}
	if d.group.Redact != nil {
		line.Text, line.Secret = d.group.Redact(text)
	}
	if len(line.Text) > maxLine {
		line.Text = strings.ToValidUTF8(line.Text[:maxLine], "") + " …"
	}
	c.Lines = append(c.Lines, line)
}

// note is about a file that differs where no line shows it.
func (d *differ) note(file, text string) {
	k := key{file, ""}
	d.changes[k] = &Change{File: file, Lines: []Line{{Op: '+', Text: text}}}
	d.order = append(d.order, k)
}

func (d *differ) result() Difference {
	out := Difference{Omitted: d.omitted}
	kinds := map[string]string{} // by machine
	for _, k := range d.order {
		c, t := d.changes[k], d.tallies[k]
		switch {
		case t.gone == 0 && t.kept == 0:
			c.Kind = "added"
		case t.came == 0 && t.kept == 0:
			c.Kind = "removed"
		default:
			c.Kind = "changed"
		}
		if k.machine == "" {
			c.Kind = "changed"
		} else if before, ok := kinds[k.machine]; ok && before != c.Kind {
			kinds[k.machine] = "changed"
		} else {
			kinds[k.machine] = c.Kind
		}
		if len(c.Lines) > 0 {
			out.Changes = append(out.Changes, *c)
		}
	}
	for _, kind := range kinds {
		switch kind {
		case "added":
			out.Added++
		case "removed":
			out.Removed++
		default:
			out.Altered++
		}
	}
	return out
}

// widened adds the machines that only the live file knows.
func (d *differ) widened(text string) map[string]string {
	if d.group.Unit == orchestrator.Console { // there a uuid is a VM's
		return d.names
	}
	names := maps.Clone(d.names)
	for _, id := range anyUUID.FindAllString(text, -1) {
		if _, known := names[id]; known {
			continue
		}
		names[id] = id
		if d.group.Names != nil {
			for _, word := range d.group.Names(id, nil) {
				names[word] = id
			}
		}
	}
	return names
}

var anyUUID = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)

// whole ends the last line of a text that has one.
func whole(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// owners tells of each line whose it is: by what the renderer says, else by a name in it; a line that is indented or closes a brace goes
// with the one above.
func owners(text string, names map[string]string, by func(line int) string) []string {
	lines := strings.Split(text, "\n")
	out := make([]string, len(lines)-1) // nothing follows the last line's end
	for i := range out {
		if by != nil {
			if out[i] = by(i + 1); out[i] != "" {
				continue
			}
		}
		out[i] = named(lines[i], names)
		if out[i] == "" && i > 0 && lines[i] != "" && strings.ContainsRune(" \t}", rune(lines[i][0])) {
			out[i] = out[i-1]
		}
	}
	return out
}

func named(line string, names map[string]string) string {
	for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune(" \t\"'{};,:[]", r) }) {
		if machine, ok := names[word]; ok {
			return machine
		}
	}
	return ""
}

type hunk struct {
	old   int // lines of the old text before it
	lines []string
}

var hunkHead = regexp.MustCompile(`^@@ -(\d+),(\d+) \+(\d+),(\d+) @@$`)

// hunks reads a unified diff of texts that end in a line's end. A line of a text never begins a line of the diff, so a head is one.
func hunks(text []byte) iter.Seq[hunk] {
	return func(yield func(hunk) bool) {
		var h *hunk
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSuffix(line, "\n")
			head := hunkHead.FindStringSubmatch(line)
			switch {
			case head != nil:
				if h != nil && !yield(*h) {
					return
				}
				start, _ := strconv.Atoi(head[1]) // digits
				if head[2] != "0" {
					start-- // it counts from 1, save where it has no line
				}
				h = &hunk{old: start}
			case h != nil && line != "":
				h.lines = append(h.lines, line)
			}
		}
		if h != nil {
			yield(*h)
		}
	}
}
