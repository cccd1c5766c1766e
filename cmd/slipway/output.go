package main

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// print writes a value as JSON, or lets tabular make a table of it.
func (e *env) print(value any, tabular func(table.Writer)) error {
	if e.Output == "json" {
		return writeJSON(e.stdout, value, "  ")
	}
	t := table.NewWriter()
	t.SetOutputMirror(e.stdout)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Format.Header = text.FormatDefault
	tabular(cleaned{t})
	t.Render()
	return nil
}

// cleaned is a table whose cells cannot drive the terminal, wherever their text is from.
type cleaned struct{ table.Writer }

func (c cleaned) AppendRow(row table.Row, config ...table.RowConfig) {
	for i, cell := range row {
		if s, ok := cell.(string); ok {
			row[i] = clean(s)
		}
	}
	c.Writer.AppendRow(row, config...)
}

// line writes one JSON value on a line of its own.
func (e *env) line(value any) error { return writeJSON(e.stdout, value, "") }

// clean keeps foreign text from driving the terminal, and on one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// clip shortens text for a column.
func clip(s string, n int) string {
	s = clean(s)
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return max(0, time.Since(t)).Round(time.Second).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

// count is a number of things in words: "1 finding", "2 findings".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
