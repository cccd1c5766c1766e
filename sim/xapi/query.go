package xapi

import (
	"strconv"
	"strings"
)

// query is the condition of get_all_records_where.
type query func(*object) bool

// The columns of the database write a namespace of the datamodel with two underscores: name__label, memory__static_max.
var namespaces = []string{"name", "memory", "VCPUs", "actions", "PV", "HVM", "ha", "wlb", "MAC", "qos_algorithm", "snapshot"}

// column finds the field behind a column's name.
func (c *class) column(name string) *field {
	for _, ns := range namespaces {
		if rest, ok := strings.CutPrefix(name, ns+"__"); ok {
			return c.byField[ns+"_"+rest]
		}
	}
	if name == "name_label" || name == "name_description" {
		return nil
	}
	return c.byField[name]
}

// parseQuery reads the little language of xapi's database: true, false, not (...), and, or, field "x" = "y".
func parseQuery(c *class, text string) (query, error) {
	p := &queryParser{class: c, rest: text}
	q, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(p.rest) != "" {
		return nil, p.broken()
	}
	return q, nil
}

// queryDepth bounds parentheses.
const queryDepth = 32

type queryParser struct {
	class *class
	rest  string
}

func (p *queryParser) broken() error { return internal("Stdlib.Parsing.Parse_error") }

func (p *queryParser) word(w string) bool {
	p.rest = strings.TrimLeft(p.rest, " \t")
	rest, ok := strings.CutPrefix(p.rest, w)
	if !ok || w[0] >= 'a' && rest != "" && rest[0] >= 'a' && rest[0] <= 'z' {
		return false
	}
	p.rest = rest
	return true
}

func (p *queryParser) or(depth int) (query, error) {
	left, err := p.and(depth)
	for err == nil && p.word("or") {
		var right query
		a := left
		if right, err = p.and(depth); err == nil {
			left = func(o *object) bool { return a(o) || right(o) }
		}
	}
	return left, err
}

func (p *queryParser) and(depth int) (query, error) {
	left, err := p.term(depth)
	for err == nil && p.word("and") {
		var right query
		a := left
		if right, err = p.term(depth); err == nil {
			left = func(o *object) bool { return a(o) && right(o) }
		}
	}
	return left, err
}

func (p *queryParser) term(depth int) (query, error) {
	if depth > queryDepth {
		return nil, p.broken()
	}
	switch {
	case p.word("true"):
		return func(*object) bool { return true }, nil
	case p.word("false"):
		return func(*object) bool { return false }, nil
	case p.word("not"):
		q, err := p.term(depth + 1)
		if err != nil {
			return nil, err
		}
		return func(o *object) bool { return !q(o) }, nil
	case p.word("("):
		q, err := p.or(depth + 1)
		if err == nil && !p.word(")") {
			err = p.broken()
		}
		return q, err
	default:
		return p.comparison()
	}
}

func (p *queryParser) comparison() (query, error) {
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	if !p.word("=") {
		return nil, p.broken()
	}
	right, err := p.operand()
	if err != nil {
		return nil, err
	}
	return func(o *object) bool { return left(o) == right(o) }, nil
}

func (p *queryParser) operand() (func(*object) string, error) {
	isField := p.word("field")
	text, err := p.literal()
	if err != nil || !isField {
		return func(*object) string { return text }, err
	}
	f := p.class.column(text)
	if f == nil {
		return nil, fail("INTERNAL_ERROR", "missing field", text, "")
	}
	return func(o *object) string { return columnText(o.vals[f.index]) }, nil
}

func (p *queryParser) literal() (string, error) {
	p.rest = strings.TrimLeft(p.rest, " \t")
	if p.rest == "" || p.rest[0] != '"' && p.rest[0] != '\'' {
		return "", p.broken()
	}
	end := strings.IndexByte(p.rest[1:], p.rest[0])
	if end < 0 {
		return "", p.broken()
	}
	text := p.rest[1 : end+1]
	p.rest = p.rest[end+2:]
	return text, nil
}

// columnText is a value as the database stores it.
func columnText(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case date:
		return string(x)
	case int64:
		return strconv.FormatInt(x, 10)
	case bool:
		return strconv.FormatBool(x)
	case float64:
		return floatText(x)
	default:
		return rpcText(v)
	}
}
