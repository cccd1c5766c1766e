package sqlstore

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"time"
)

// micros is a time as the store keeps it.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// list is a JSON array for {list}.
func list[T ~string](items []T) string {
	if len(items) == 0 {
		return "[]"
	}
	return text(items)
}

// text is a value as JSON. What is stored here always marshals: strings, numbers, and types with text forms.
func text(v any) string {
	body, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(body)
}

// filled is a value as JSON, "" for the zero value.
func filled[T any](v T) string {
	if reflect.ValueOf(v).IsZero() {
		return ""
	}
	return text(v)
}

// handles is a map as JSON, {} for none.
func handles(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	return text(m)
}

// column reads one column of a row into a Go value; the drivers hand it int64, string, []byte or nil.
type column func(src any) error

func (c column) Scan(src any) error { return c(src) }

func stringOf(src any) (string, error) {
	switch v := src.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case nil:
		return "", nil
	default:
		return "", fmt.Errorf("%T where text is expected", src)
	}
}

func intoTime(t *time.Time) column {
	return func(src any) error {
		n, ok := src.(int64)
		if !ok {
			return fmt.Errorf("%T where a time is expected", src)
		}
		*t = time.Time{}
		if n != 0 {
			*t = time.UnixMicro(n).UTC()
		}
		return nil
	}
}

func intoBool(b *bool) column {
	return func(src any) error {
		n, ok := src.(int64)
		if !ok {
			return fmt.Errorf("%T where a flag is expected", src)
		}
		*b = n != 0
		return nil
	}
}

func intoAddr(a *netip.Addr) column {
	return func(src any) error {
		s, err := stringOf(src)
		*a = netip.Addr{}
		if err != nil || s == "" {
			return err
		}
		*a, err = netip.ParseAddr(s)
		return err
	}
}

// intoJSON reads a JSON text; an empty text leaves the zero value.
func intoJSON[T any](p *T) column {
	return func(src any) error {
		s, err := stringOf(src)
		var zero T
		*p = zero
		if err != nil || s == "" {
			return err
		}
		return json.Unmarshal([]byte(s), p)
	}
}

// intoHandles reads a map; none is nil.
func intoHandles(p *map[string]string) column {
	return func(src any) error {
		if err := intoJSON(p)(src); err != nil {
			return err
		}
		if len(*p) == 0 {
			*p = nil
		}
		return nil
	}
}

// intoRaw reads a JSON text as it is; an empty text is nil.
func intoRaw(p *json.RawMessage) column {
	return func(src any) error {
		s, err := stringOf(src)
		*p = nil
		if s != "" {
			*p = json.RawMessage(s)
		}
		return err
	}
}

// intoBytes copies; empty is nil.
func intoBytes[T ~[]byte](p *T) column {
	return func(src any) error {
		*p = nil
		switch v := src.(type) {
		case []byte:
			if len(v) > 0 {
				*p = append(T(nil), v...)
			}
		case nil:
		default:
			return fmt.Errorf("%T where bytes are expected", src)
		}
		return nil
	}
}
