package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"slipway/orchestrator"
)

const (
	// MaxSize of an order in bytes; the largest sensible one (64 rules, 32 RSA keys) has a twentieth of it.
	MaxSize = 1 << 20
	// maxDepth is more than an order needs (4) and less than what hurts a parser.
	maxDepth = 16
	// maxProblems bounds what is said about one message.
	maxProblems = 32
)

// wholeMessage is the field of a problem that has no place.
const wholeMessage = "message"

func problem(field, what, fix string) orchestrator.FieldError {
	return orchestrator.FieldError{Field: field, Problem: what, Fix: fix}
}

// checkShape looks for what a JSON parser would let pass or choke on: size, encoding, depth, numbers with exponents, trailing text, and
// keys that come twice, of which parsers take either.
func checkShape(body []byte) orchestrator.FieldErrors {
	switch {
	case len(body) > MaxSize:
		return orchestrator.FieldErrors{problem(wholeMessage, fmt.Sprintf("has %d bytes", len(body)), fmt.Sprintf("send at most %d", MaxSize))}
	case !utf8.Valid(body):
		return orchestrator.FieldErrors{problem(wholeMessage, "is not UTF-8", "send UTF-8")}
	}
	w := walker{decoder: json.NewDecoder(bytes.NewReader(body))}
	w.decoder.UseNumber()
	if err := w.value("", 0); err != nil {
		return append(w.problems, problem(wholeMessage, "is not JSON: "+clip(err.Error()), "send one CloudEvent as a JSON object"))
	}
	if _, err := w.decoder.Token(); err != io.EOF {
		w.add(wholeMessage, "has text after its end", "send one JSON object and nothing else")
	}
	return w.problems
}

type walker struct {
	decoder  *json.Decoder
	problems orchestrator.FieldErrors
}

func (w *walker) add(field, what, fix string) {
	if len(w.problems) < maxProblems {
		w.problems = append(w.problems, problem(field, what, fix))
	}
}

func (w *walker) value(path string, depth int) error {
	token, err := w.decoder.Token()
	if err != nil {
		return err
	}
	switch t := token.(type) {
	case json.Number:
		if !plainNumber(t.String()) {
			w.add(shown(path), fmt.Sprintf("%s is not a plain number", clip(t.String())), "write digits only")
		}
	case json.Delim:
		if depth == maxDepth {
			return fmt.Errorf("it is nested deeper than %d", maxDepth)
		}
		if t == '{' {
			return w.object(path, depth)
		}
		return w.array(path, depth)
	}
	return nil
}

func (w *walker) object(path string, depth int) error {
	seen := map[string]bool{}
	for w.decoder.More() {
		token, err := w.decoder.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the decoder lets nothing else be a key
		field := join(path, key)
		if seen[key] {
			w.add(shown(field), "is there twice", "give it once")
		}
		seen[key] = true
		if err := w.value(field, depth+1); err != nil {
			return err
		}
	}
	_, err := w.decoder.Token()
	return err
}

func (w *walker) array(path string, depth int) error {
	for i := 0; w.decoder.More(); i++ {
		if err := w.value(path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return err
		}
	}
	_, err := w.decoder.Token()
	return err
}

// plainNumber keeps 1e999999999 away from exact arithmetic.
func plainNumber(s string) bool {
	return len(s) <= 24 && !strings.ContainsAny(s, "eE")
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// shown is a path as the problems name it: fields of data without "data.". Foreign keys are clipped and made printable.
func shown(path string) string {
	if path == "" {
		return wholeMessage
	}
	if in, ok := strings.CutPrefix(path, "data."); ok {
		path = in
	}
	const most = 120
	if len(path) > most {
		path = path[:most] + "…"
	}
	return printable(path)
}

// clip makes foreign text short and printable.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		s = s[:most] + "…"
	}
	return printable(s)
}

// printable is text that does nothing to a terminal and hides nothing from a reader: what is not printable ASCII is escaped.
func printable(s string) string {
	if quoted := strconv.QuoteToASCII(strings.ToValidUTF8(strings.ReplaceAll(s, "…", "..."), "?")); len(quoted) >= 2 {
		return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	}
	return s
}
