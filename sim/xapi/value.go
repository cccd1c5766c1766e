package xapi

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The values of fields, parameters and results are string (also enums and references), int64, float64, bool, date, []any and
// map[string]any, as the datamodel's type says. Values in the database are never changed in place: a write replaces them, so that a
// record is a cheap snapshot.

// date is a time as xapi writes it: 20261121T21:34:57Z.
type date string

// count is a number that stays an integer in XML-RPC, where 64-bit fields travel as strings.
type count int64

const (
	nullRef = "OpaqueRef:NULL"
	epoch   = date("19700101T00:00:00Z")
)

func dateOf(t time.Time) date { return date(t.UTC().Format("20060102T15:04:05Z")) }

// record is a snapshot of an object: its class gives the names to the values.
type record struct {
	class *class
	vals  []any
}

// pair and ordered are for answers whose members have an order of their own (events).
type pair struct {
	key string
	val any
}
type ordered []pair

// failure is an error of the XenAPI: a code of its catalogue and the code's parameters. It travels as data, never as an HTTP status.
type failure struct {
	code   string
	params []string
}

func (f *failure) Error() string { return f.code + "(" + strings.Join(f.params, ", ") + ")" }

func fail(code string, params ...string) error { return &failure{code: code, params: params} }

func internal(text string) error { return fail("INTERNAL_ERROR", text) }

// convert checks a value from the wire against a type. XML-RPC sends 64-bit integers as strings and xapi takes them in JSON too.
func (m *datamodel) convert(t *typ, v any) (any, error) {
	switch t.kind {
	case kindString, kindRef, kindDate:
		switch s := v.(type) {
		case string:
			if t.kind == kindDate {
				return date(s), nil
			}
			return s, nil
		case date:
			return s, nil
		}
		return nil, expected("string", v)
	case kindEnum:
		s, ok := v.(string)
		if !ok {
			return nil, expected("string", v)
		}
		if values := m.enums[t.name]; values != nil && !values[s] {
			return nil, internal(`Failure("Unknown tag/contents")`)
		}
		return s, nil
	case kindInt:
		switch n := v.(type) {
		case int64:
			return n, nil
		case string:
			if i, err := strconv.ParseInt(n, 10, 64); err == nil {
				return i, nil
			}
			return nil, internal(`Failure("Int64.of_string")`)
		}
		return nil, expected("int64", v)
	case kindFloat:
		switch n := v.(type) {
		case float64:
			return n, nil
		case int64:
			return float64(n), nil
		case string:
			if f, err := strconv.ParseFloat(n, 64); err == nil {
				return f, nil
			}
			return nil, internal(`Failure("float_of_string")`)
		}
		return nil, expected("float", v)
	case kindBool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, expected("bool", v)
	case kindSet:
		list, ok := v.([]any)
		if !ok {
			return nil, expected("list", v)
		}
		out := make([]any, 0, len(list))
		for _, item := range list {
			c, err := m.convert(t.val, item)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
		return out, nil
	case kindMap:
		in, ok := v.(map[string]any)
		if !ok {
			return nil, expected("dictionary", v)
		}
		out := make(map[string]any, len(in))
		for k, item := range in {
			if t.key.kind == kindEnum {
				if _, err := m.convert(t.key, k); err != nil {
					return nil, err
				}
			}
			c, err := m.convert(t.val, item)
			if err != nil {
				return nil, err
			}
			out[k] = c
		}
		return out, nil
	case kindRecord:
		in, ok := v.(map[string]any)
		if !ok {
			return nil, expected("dictionary", v)
		}
		return in, nil
	default:
		return nil, internal("Failure(\"unexpected parameter\")")
	}
}

func expected(want string, got any) error {
	return internal(fmt.Sprintf("Failure(\"Expected %s, got '%s'\")", want, rpcText(got)))
}

// rpcText writes a value the way xapi's messages quote it: I(5), S(x), N, [S(a);S(b)], {k:S(v)}.
func rpcText(v any) string {
	switch x := v.(type) {
	case nil:
		return "N"
	case string:
		return "S(" + x + ")"
	case date:
		return "D(" + string(x) + ")"
	case int64:
		return "I(" + strconv.FormatInt(x, 10) + ")"
	case float64:
		return "F(" + strconv.FormatFloat(x, 'g', -1, 64) + ")"
	case bool:
		return "B(" + strconv.FormatBool(x) + ")"
	case []any:
		parts := make([]string, len(x))
		for i, item := range x {
			parts[i] = rpcText(item)
		}
		return "[" + strings.Join(parts, ";") + "]"
	case map[string]any:
		parts := make([]string, 0, len(x))
		for _, k := range slices.Sorted(maps.Keys(x)) {
			parts = append(parts, k+":"+rpcText(x[k]))
		}
		return "{" + strings.Join(parts, ";") + "}"
	default:
		return "?"
	}
}

// same reports whether two field values are equal; a write of the same value is no change and makes no event.
func same(a, b any) bool {
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		return ok && slices.Equal(x, y)
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && maps.Equal(x, y)
	default:
		return a == b
	}
}

func with(set []any, v any) []any {
	if slices.Contains(set, v) {
		return set
	}
	return append([]any{v}, set...) // xapi lists the newest first
}

func without(set []any, v any) []any {
	out := make([]any, 0, len(set))
	for _, item := range set {
		if item != v {
			out = append(out, item)
		}
	}
	return out
}

func withKey(m map[string]any, k string, v any) map[string]any {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]any{}
	}
	out[k] = v
	return out
}

func withoutKey(m map[string]any, k string) map[string]any {
	out := maps.Clone(m)
	delete(out, k)
	return out
}
