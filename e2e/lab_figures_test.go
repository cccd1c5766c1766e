package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/guestimage"
)

// stages are the steps of an install in the groups that docs/lab.md shows; what a machine waits for is not slipway's own.
var stages = []struct {
	name  string
	steps []string
	own   bool // they ask nobody
}{
	{"`place`, `select_ips`", []string{"place", "select_ips"}, true},
	{"`create_machine`: linked clone", []string{"create_machine"}, false},
	{"`sync_dhcp`, `configure_nat`, `provision_console`", []string{"sync_dhcp", "configure_nat", "provision_console"}, false},
	{"`start_machine`", []string{"start_machine"}, false},
	{"`await_guest`: kernel, DHCP, sshd", []string{"await_guest"}, false},
	{"`post_install`: scripts in the guest", []string{"post_install"}, false},
	{"`open_firewall`", []string{"open_firewall"}, false},
	{"`register_dns`, `register_monitoring`: off", []string{"register_dns", "register_monitoring"}, true},
	{"`verify`: ports, among them silent ones, and the console", []string{"verify"}, false},
}

// spent is how long an install took by its journal: as a whole, by step from its first attempt to the end of its last, and what is slipway's
// own of it: the steps that ask nobody, and what lies between the steps.
type spent struct {
	total, own time.Duration
	steps      map[string]time.Duration
	order      []string
}

func spentOn(m api.Machine) spent {
	s := spent{steps: map[string]time.Duration{}}
	first, last := map[string]time.Time{}, map[string]time.Time{}
	end := m.Created
	for _, a := range m.Attempts {
		if _, ok := first[a.Step]; !ok {
			first[a.Step] = a.Started
			s.order = append(s.order, a.Step)
		}
		if a.Ended.After(last[a.Step]) {
			last[a.Step] = a.Ended
		}
		if a.Ended.After(end) {
			end = a.Ended
		}
	}
	s.total = end.Sub(m.Created)
	s.own = s.total
	for _, step := range s.order {
		s.steps[step] = last[step].Sub(first[step])
		if !asksNobody(step) {
			s.own -= s.steps[step]
		}
	}
	return s
}

func asksNobody(step string) bool {
	for _, stage := range stages {
		if stage.own && slices.Contains(stage.steps, step) {
			return true
		}
	}
	return false
}

// timing tells it in one line.
func timing(m api.Machine) string {
	s := spentOn(m)
	var parts []string
	for _, step := range s.order {
		parts = append(parts, fmt.Sprintf("%s %.2f", step, s.steps[step].Seconds()))
	}
	return fmt.Sprintf("%.1f s: %s; between and beside what it waits for %.2f (%.1f %%)", s.total.Seconds(), strings.Join(parts, ", "), s.own.Seconds(), 100*s.own.Seconds()/s.total.Seconds())
}

// labFigures orders so many machines at once, on a site of their own for each count, and prints the tables of docs/lab.md.
func labFigures(t *testing.T, counts string) {
	var columns []string
	var cells [][]string // by column: one for each row
	for field := range strings.SplitSeq(counts, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 || n > 16 {
			t.Fatalf("%s=%q: give counts of guests from 1 to 16 between commas, such as 2,4,8", guestsVar, counts)
		}
		t.Run(field, func(t *testing.T) {
			columns = append(columns, fmt.Sprintf("%d at once", n))
			cells = append(cells, labColumn(t, n))
		})
		if t.Failed() {
			return
		}
	}
	tr := newTranscript(t)
	tr.say("\nMedian and longest, in seconds.\n\n| | %s |\n|---%s|", strings.Join(columns, " | "), strings.Repeat("|---", len(columns)))
	rows := []string{"order to `production_ready`"}
	for _, stage := range stages {
		rows = append(rows, stage.name)
	}
	for i, row := range append(rows, "slipway's own", "slipway's own, part of the whole") {
		line := "| " + row
		for _, column := range cells {
			line += " | " + column[i]
		}
		tr.say("%s |", line)
	}
}

// labColumn is the median and the longest of n machines: the whole, each stage, slipway's own and its part.
func labColumn(t *testing.T, n int) (column []string) {
	l := newLab(t, map[string]string{guestimage.Lab: guestimage.Lab}, 0)
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("web-%d.acme.example", i+1))
	}
	machines, orders := l.orders(guestimage.Lab, 1, hosts...)
	l.say("lab: %d orders at once", n)
	began := time.Now()
	var all []spent
	for i, code := range l.order(orders...) {
		l.made(&machines[i], code, began)
		all = append(all, spentOn(machines[i].Machine))
	}
	cell := func(format string, of func(spent) float64) {
		var values []float64
		for _, s := range all {
			values = append(values, of(s))
		}
		slices.Sort(values)
		middle := (values[(len(values)-1)/2] + values[len(values)/2]) / 2
		column = append(column, fmt.Sprintf(format+", "+format, middle, values[len(values)-1]))
	}
	cell("%.1f", func(s spent) float64 { return s.total.Seconds() })
	for _, stage := range stages {
		cell("%.1f", func(s spent) (sum float64) {
			for _, step := range stage.steps {
				sum += s.steps[step].Seconds()
			}
			return sum
		})
	}
	cell("%.2f", func(s spent) float64 { return s.own.Seconds() })
	cell("%.1f %%", func(s spent) float64 { return 100 * s.own.Seconds() / s.total.Seconds() })
	return column
}
