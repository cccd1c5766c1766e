package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// decoderLine is how the decoder begins what it says of a line.
var decoderLine = regexp.MustCompile(`line (\d+): `)

// explain turns what the decoder says into ours: line, key, problem and an example. What only the decoder knows, such as a key that is there
// twice, stays in its words.
func explain(body []byte, err error) error {
	var tree yaml.Node
	if yaml.Unmarshal(body, &tree) != nil || len(tree.Content) == 0 {
		return err // it is no YAML: that has a line, and no key
	}
	w := walk{seen: map[*yaml.Node]bool{}, keys: knownKeys(reflect.TypeFor[Config](), map[reflect.Type]bool{})}
	w.value(tree.Content[0], reflect.TypeFor[Config](), "")
	var typeErr *yaml.TypeError
	if errors.As(err, &typeErr) {
		for _, text := range typeErr.Errors {
			m := decoderLine.FindStringSubmatch(text)
			if m == nil {
				w.faults = append(w.faults, fault{text: text})
				continue
			}
			if line, _ := strconv.Atoi(m[1]); !slices.ContainsFunc(w.faults, func(f fault) bool { return f.line == line }) {
				w.faults = append(w.faults, fault{line, text})
			}
		}
	}
	if len(w.faults) == 0 {
		return err
	}
	slices.SortStableFunc(w.faults, func(a, b fault) int { return a.line - b.line })
	lines := make([]string, len(w.faults))
	for i, f := range w.faults {
		lines[i] = f.text
	}
	return errors.New(strings.Join(lines, "\n"))
}

type fault struct {
	line int
	text string
}

// walk holds a file that the decoder refused against the types that it should have filled. A node is looked at once, however often the file
// refers to it.
type walk struct {
	seen   map[*yaml.Node]bool
	keys   []string
	faults []fault
}

func (w *walk) add(n *yaml.Node, path, format string, args ...any) {
	text := fmt.Sprintf("line %d: ", n.Line)
	if path != "" {
		text += path + ": "
	}
	w.faults = append(w.faults, fault{n.Line, text + fmt.Sprintf(format, args...)})
}

func (w *walk) value(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if w.seen[n] || n.Tag == "!!null" {
		return
	}
	w.seen[n] = true
	into := reflect.New(t).Interface()
	if _, own := into.(yaml.Unmarshaler); own {
		if n.Decode(into) != nil {
			w.add(n, path, "is not a list of texts: write [ONE, TWO]")
		}
		return
	}
	if text, own := into.(encoding.TextUnmarshaler); own {
		if n.Kind != yaml.ScalarNode {
			w.add(n, path, "is %s and should be one value", kindOf(n))
		} else if err := text.UnmarshalText([]byte(n.Value)); err != nil {
			w.add(n, path, "%v", err)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		w.fields(n, t, path)
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			w.add(n, path, "is %s and should be keys with their values: write {NAME: …}", kindOf(n))
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			w.value(n.Content[i+1], t.Elem(), join(path, n.Content[i].Value))
		}
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			w.add(n, path, "is %s and should be a list: write [ONE, TWO], or a line for each, begun with a dash", kindOf(n))
			return
		}
		for i, item := range n.Content {
			w.value(item, t.Elem(), element(path, i, item))
		}
	default:
		if n.Kind != yaml.ScalarNode {
			w.add(n, path, "is %s and should be one value", kindOf(n))
		} else if n.Decode(into) != nil {
			w.add(n, path, "%q is not %s", clip(n.Value), wanted(t))
		}
	}
}

// fields never repeats the text that stands in a struct's place: a secret is written there by mistake.
func (w *walk) fields(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.MappingNode {
		example := "keys with their values, each on a line of its own"
		if t == reflect.TypeFor[Secret]() {
			example = "where the secret is: write {file: PATH}, {env: NAME} or {credential: NAME}"
		}
		w.add(n, path, "is %s and should be %s", kindOf(n), example)
		return
	}
	types := map[string]reflect.Type{}
	for f := range t.Fields() {
		types[strings.Split(f.Tag.Get("yaml"), ",")[0]] = f.Type
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := types[key.Value]
		switch {
		case key.Tag == "!!merge":
			if value.Kind == yaml.AliasNode || value.Kind == yaml.MappingNode {
				w.value(value, t, path)
			}
		case !known:
			w.add(key, path, "unknown key %q; did you mean %q?", clip(key.Value), Nearest(key.Value, w.keys))
		default:
			w.value(value, field, join(path, key.Value))
		}
	}
}

// element is an item of a list by its id, as the other refusals name it, else by its place.
func element(path string, i int, item *yaml.Node) string {
	if item.Kind == yaml.MappingNode {
		for k := 0; k+1 < len(item.Content); k += 2 {
			if id := item.Content[k+1]; item.Content[k].Value == "id" && name.MatchString(id.Value) {
				return join(path, id.Value)
			}
		}
	}
	return fmt.Sprintf("%s[%d]", path, i)
}

func join(path, key string) string {
	if path == "" {
		return clip(key)
	}
	return path + "." + clip(key)
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "one value"
	}
}

// wanted is what a scalar of a type looks like.
func wanted(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "a duration: write a number and its unit, such as 10s, 5m or 24h"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "a yes or no: write true or false"
	case reflect.String:
		return "a text: put it in quotes"
	default:
		return "a whole number of a sensible size: write one such as 64"
	}
}
