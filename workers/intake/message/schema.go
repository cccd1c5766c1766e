package message

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"slipway/orchestrator"
	"slipway/schemas"
)

// compiled compiles the embedded schemas once; they are constants of the program.
var compiled = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	names := schemas.Names()
	for _, name := range names {
		text, _ := schemas.Get(name)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		if err := compiler.AddResource(address(name), doc); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	all := map[string]*jsonschema.Schema{}
	for _, name := range names {
		schema, err := compiler.Compile(address(name))
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		all[name] = schema
	}
	return all, nil
})

func address(name string) string { return "slipway:///" + name + schemas.Suffix }

// Check judges a message by the schema of a type ("slipway.order.install", "slipway.run.done", …). What is wrong is FieldErrors.
func Check(typ string, body []byte) error {
	if problems := checkShape(body); len(problems) > 0 {
		return problems
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return orchestrator.FieldErrors{problem(wholeMessage, "is not JSON", "send one CloudEvent as a JSON object")}
	}
	shape, values, err := checkSchema(typ, instance)
	if err != nil {
		return err
	}
	if problems := append(shape, values...); len(problems) > 0 {
		return problems
	}
	return nil
}

// checkSchema tells problems of shape (missing, unknown, of another type: the message cannot be read into an order) from those of values.
func checkSchema(typ string, instance any) (shape, values orchestrator.FieldErrors, err error) {
	all, err := compiled()
	if err != nil {
		return nil, nil, orchestrator.E("message.Check", orchestrator.Permanent, err)
	}
	schema, ok := all[strings.TrimPrefix(typ, "slipway.")]
	if !ok {
		return nil, nil, orchestrator.Errorf("message.Check", orchestrator.Permanent, "there is no schema for %s", clip(typ))
	}
	err = schema.Validate(instance)
	var invalid *jsonschema.ValidationError
	if err == nil {
		return nil, nil, nil
	}
	if !errors.As(err, &invalid) {
		return nil, nil, orchestrator.E("message.Check", orchestrator.Permanent, err)
	}
	c := collector{instance: instance}
	c.collect(schema, invalid)
	return c.shape, c.values, nil
}

type collector struct {
	instance      any
	shape, values orchestrator.FieldErrors
}

func (c *collector) collect(schema *jsonschema.Schema, e *jsonschema.ValidationError) {
	if len(c.shape)+len(c.values) >= maxProblems {
		return
	}
	path := pathOf(c.instance, e.InstanceLocation)
	field := shown(path)
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			c.shape = append(c.shape, problem(shown(join(path, name)), "is missing", "give it"))
		}
	case *kind.AdditionalProperties:
		known := properties(schema, e.InstanceLocation)
		slices.Sort(k.Properties)
		for _, name := range k.Properties[:min(len(k.Properties), maxProblems)] {
			c.shape = append(c.shape, problem(shown(join(path, name)), "is unknown", unknownFix(name, known)))
		}
	case *kind.PropertyNames:
		c.shape = append(c.shape, problem(shown(join(path, k.Property)), "is no name of a CloudEvents attribute",
			unknownFix(k.Property, properties(schema, e.InstanceLocation))))
	case *kind.Type:
		c.shape = append(c.shape, problem(field, "is "+article(k.Got), "write "+article(strings.Join(k.Want, " or "))))
	case *kind.AnyOf:
		c.values = append(c.values, problem(field, "has none of the fields of which one is needed", "see `slipway schema`"))
	case *kind.Const:
		c.values = append(c.values, problem(field, "is not what it must be", fmt.Sprintf("write %q", k.Want)))
	case *kind.Enum:
		c.values = append(c.values, problem(field, "is none of those that are possible", fmt.Sprintf("write one of %v", k.Want)))
	case *kind.Pattern:
		c.values = append(c.values, problem(field, fmt.Sprintf("%q has not the right form", clip(k.Got)), "write what matches "+k.Want))
	case *kind.Format:
		c.values = append(c.values, problem(field, fmt.Sprintf("is not a %s", k.Want), formatFix(k.Want)))
	case *kind.Minimum:
		c.values = append(c.values, problem(field, "is too small", "write at least "+k.Want.RatString()))
	case *kind.Maximum:
		c.values = append(c.values, problem(field, "is too large", "write at most "+k.Want.RatString()))
	case *kind.MinLength:
		c.values = append(c.values, problem(field, "is too short", fmt.Sprintf("write at least %d characters", k.Want)))
	case *kind.MaxLength:
		c.values = append(c.values, problem(field, fmt.Sprintf("has %d characters", k.Got), fmt.Sprintf("write at most %d", k.Want)))
	case *kind.MinItems:
		c.values = append(c.values, problem(field, fmt.Sprintf("has %d entries", k.Got), fmt.Sprintf("give at least %d", k.Want)))
	case *kind.MaxItems:
		c.values = append(c.values, problem(field, fmt.Sprintf("has %d entries", k.Got), fmt.Sprintf("give at most %d", k.Want)))
	default:
		if len(e.Causes) == 0 {
			c.values = append(c.values, problem(field, "is not as its schema says", "see `slipway schema`"))
		}
		for _, cause := range e.Causes {
			c.collect(schema, cause)
		}
	}
}

// pathOf writes a JSON pointer's tokens as data.firewall[2].ports; the instance tells arrays from objects with numbers for keys.
func pathOf(instance any, location []string) string {
	var path string
	for _, token := range location {
		switch at := instance.(type) {
		case []any:
			path += "[" + token + "]"
			var i int
			if _, err := fmt.Sscan(token, &i); err == nil && i >= 0 && i < len(at) {
				instance = at[i]
			}
		case map[string]any:
			path = join(path, token)
			instance = at[token]
		default:
			path = join(path, token)
		}
	}
	return path
}

// properties lists the names that a schema knows at a place of its instance.
func properties(schema *jsonschema.Schema, location []string) []string {
	for _, token := range location {
		if schema == nil {
			return nil
		}
		if next, ok := schema.Properties[token]; ok {
			schema = next
		} else {
			schema = schema.Items2020
		}
	}
	if schema == nil {
		return nil
	}
	var names []string
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func unknownFix(name string, known []string) string {
	if near, ok := nearest(name, known); ok {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return "leave it out; known here: " + strings.Join(known, ", ")
}

// nearest finds the name that is the fewest edits away, at most a third of its length and at least two.
func nearest(name string, known []string) (string, bool) {
	best, found := 0, ""
	for _, k := range known {
		if len(name) > 2*len(k)+4 {
			continue
		}
		if d := distance(strings.ToLower(name), k); d <= max(2, len(k)/3) && (found == "" || d < best) {
			best, found = d, k
		}
	}
	return found, found != ""
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func article(typ string) string {
	switch {
	case typ == "null":
		return "null"
	case strings.HasPrefix(typ, "a"), strings.HasPrefix(typ, "o"), strings.HasPrefix(typ, "i"):
		return "an " + typ
	default:
		return "a " + typ
	}
}

func formatFix(format string) string {
	if format == "date-time" {
		return "write RFC 3339, such as 2030-01-31T12:00:00Z"
	}
	return "see `slipway schema`"
}
