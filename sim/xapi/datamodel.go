package xapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// datamodelJSON holds the classes that clients of a pool touch, as xapi v24.11 (API 2.21) publishes them: fields in the order of its
// records, messages with the names and types of their parameters. One line per field ("name type qualifier [default]", where the
// qualifier is ro, rw, or new for "given at creation only") and per message ("name(param:type;optional?:type) result", with "!" after the
// name when no session is taken and "*" at the end when the message is generated from a field or a class).
//
//go:embed datamodel.json
var datamodelJSON []byte

type kind uint8

const (
	kindVoid kind = iota
	kindString
	kindInt
	kindFloat
	kindBool
	kindDate
	kindEnum
	kindRef
	kindSet
	kindMap
	kindRecord
	kindBatch
)

// typ is the type of a field, a parameter or a result.
type typ struct {
	kind     kind
	name     string // of the enum, or of the class of a reference or record
	key, val *typ   // of a set (val) or map
}

type field struct {
	name  string
	typ   *typ
	qual  string // ro, rw, new
	deflt any    // value when a constructor leaves it out; only if hasDefault
	must  bool   // a constructor has to give it
	index int
}

type param struct {
	name     string
	typ      *typ
	optional bool
}

type message struct {
	class     *class
	name      string // "clone"
	full      string // "VM.clone"
	params    []param
	required  int
	result    *typ
	sessioned bool
	implicit  bool
	handler   handler // nil for generated messages and those that are not simulated
}

type class struct {
	name     string
	fields   []*field
	byField  map[string]*field
	messages []*message
}

type datamodel struct {
	classes  []*class
	byClass  map[string]*class
	byLower  map[string]*class
	messages map[string]*message
	names    []string // of system.listMethods
	enums    map[string]map[string]bool
}

// loadDatamodel parses the embedded model. Its errors are programming errors of this package, found by any test.
func loadDatamodel() (*datamodel, error) {
	var raw struct {
		Classes []struct {
			Name             string
			Fields, Messages []string
		}
		Enums map[string][]string
	}
	if err := json.Unmarshal(datamodelJSON, &raw); err != nil {
		return nil, fmt.Errorf("datamodel.json: %w", err)
	}
	m := &datamodel{
		byClass: map[string]*class{}, byLower: map[string]*class{}, messages: map[string]*message{}, enums: map[string]map[string]bool{},
	}
	for name, values := range raw.Enums {
		m.enums[name] = map[string]bool{}
		for _, v := range values {
			m.enums[name][v] = true
		}
	}
	for _, rc := range raw.Classes {
		c := &class{name: rc.Name, byField: map[string]*field{}}
		for _, line := range rc.Fields {
			f, err := parseField(line)
			if err != nil {
				return nil, fmt.Errorf("datamodel.json: %s: %w", rc.Name, err)
			}
			f.index = len(c.fields)
			c.fields = append(c.fields, f)
			c.byField[f.name] = f
		}
		for _, line := range rc.Messages {
			msg, err := parseMessage(line)
			if err != nil {
				return nil, fmt.Errorf("datamodel.json: %s: %w", rc.Name, err)
			}
			msg.class, msg.full = c, c.name+"."+msg.name
			c.messages = append(c.messages, msg)
			m.messages[msg.full] = msg
		}
		m.classes = append(m.classes, c)
		m.byClass[c.name], m.byLower[strings.ToLower(c.name)] = c, c
	}
	m.addWhere()
	return m, nil
}

// addWhere gives every class that can list its records the query message, which xapi makes at dispatch, and collects the method names.
func (m *datamodel) addWhere() {
	for _, c := range m.classes {
		if all := m.messages[c.name+".get_all_records"]; all != nil && m.messages[c.name+".get_all_records_where"] == nil {
			msg := &message{
				class: c, name: "get_all_records_where", full: c.name + ".get_all_records_where", required: 1,
				params: []param{{name: "expr", typ: &typ{kind: kindString}}}, result: all.result, sessioned: true, implicit: true,
			}
			c.messages = append(c.messages, msg)
			m.messages[msg.full] = msg
		}
		for _, msg := range c.messages {
			m.names = append(m.names, msg.full)
		}
	}
	m.names = append(m.names, "system.listMethods")
}

func parseField(line string) (*field, error) {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) < 3 {
		return nil, fmt.Errorf("field %q: want name, type and qualifier", line)
	}
	t, err := parseType(parts[1])
	if err != nil {
		return nil, fmt.Errorf("field %q: %w", line, err)
	}
	f := &field{name: parts[0], typ: t, qual: parts[2], deflt: zero(t), must: parts[2] != "ro"}
	if len(parts) == 4 {
		f.must = false
		if f.deflt, err = parseDefault(t, parts[3]); err != nil {
			return nil, fmt.Errorf("field %q: %w", line, err)
		}
	}
	return f, nil
}

func parseDefault(t *typ, text string) (any, error) {
	switch t.kind {
	case kindString:
		return strings.Trim(text, `"`), nil
	case kindInt:
		return strconv.ParseInt(text, 10, 64)
	case kindFloat:
		return strconv.ParseFloat(text, 64)
	case kindBool:
		return text == "true", nil
	case kindDate:
		return date(text), nil
	case kindRef:
		return nullRef, nil
	case kindSet:
		if inner := strings.Trim(text, "{}"); inner != "" {
			v, err := parseDefault(t.val, inner)
			return []any{v}, err
		}
		return []any{}, nil
	case kindMap:
		out := map[string]any{}
		if inner := strings.Trim(text, "{}"); inner != "" {
			for pair := range strings.SplitSeq(inner, ",") {
				k, v, _ := strings.Cut(pair, "->")
				out[strings.Trim(k, ` "`)] = strings.Trim(v, ` "`)
			}
		}
		return out, nil
	default:
		return text, nil
	}
}

// zero is the value of a field that nobody set: null references, empty collections, the epoch.
func zero(t *typ) any {
	switch t.kind {
	case kindInt:
		return int64(0)
	case kindFloat:
		return float64(0)
	case kindBool:
		return false
	case kindDate:
		return epoch
	case kindRef:
		return nullRef
	case kindSet:
		return []any{}
	case kindMap:
		return map[string]any{}
	default:
		return ""
	}
}

func parseMessage(line string) (*message, error) {
	open, closed, depth := strings.IndexByte(line, '('), -1, 0
	for i := max(open, 0); i < len(line) && closed < 0; i++ {
		switch line[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				closed = i
			}
		}
	}
	if open < 0 || closed < 0 {
		return nil, fmt.Errorf("message %q: no parameter list", line)
	}
	m := &message{name: line[:open], sessioned: true, result: &typ{kind: kindVoid}}
	if before, ok := strings.CutSuffix(m.name, "!"); ok {
		m.name, m.sessioned = before, false
	}
	rest := strings.TrimSpace(line[closed+1:])
	if rest, m.implicit = strings.CutSuffix(rest, "*"); rest != "" {
		t, err := parseType(strings.TrimSpace(rest))
		if err != nil {
			return nil, fmt.Errorf("message %q: %w", line, err)
		}
		m.result = t
	}
	list := line[open+1 : closed]
	if list == "" {
		return m, nil
	}
	for text := range strings.SplitSeq(list, ";") {
		name, tt, ok := strings.Cut(text, ":")
		if !ok {
			return nil, fmt.Errorf("message %q: parameter %q has no type", line, text)
		}
		t, err := parseType(tt)
		if err != nil {
			return nil, fmt.Errorf("message %q: %w", line, err)
		}
		p := param{name: name, typ: t}
		if p.name, p.optional = strings.CutSuffix(name, "?"); !p.optional {
			m.required++
		}
		m.params = append(m.params, p)
	}
	return m, nil
}

func parseType(s string) (*typ, error) {
	if inner, ok := enclosed(s, "set("); ok {
		val, err := parseType(inner)
		return &typ{kind: kindSet, val: val}, err
	}
	if inner, ok := enclosed(s, "map("); ok {
		k, v, _ := strings.Cut(inner, ",")
		key, err := parseType(k)
		if err != nil {
			return nil, err
		}
		val, err := parseType(v)
		return &typ{kind: kindMap, key: key, val: val}, err
	}
	head, name, _ := strings.Cut(s, ":")
	kinds := map[string]kind{
		"void": kindVoid, "string": kindString, "int": kindInt, "float": kindFloat, "bool": kindBool, "datetime": kindDate,
		"enum": kindEnum, "ref": kindRef, "record": kindRecord, "eventbatch": kindBatch,
	}
	k, ok := kinds[head]
	if !ok {
		return nil, fmt.Errorf("unknown type %q", s)
	}
	return &typ{kind: k, name: name}, nil
}

func enclosed(s, prefix string) (string, bool) {
	if strings.HasPrefix(s, prefix) && strings.HasSuffix(s, ")") {
		return s[len(prefix) : len(s)-1], true
	}
	return "", false
}
