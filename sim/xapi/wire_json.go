package xapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// request is one call as a transport read it.
type request struct {
	method string
	params []any
	id     json.RawMessage // JSON only
	v2     bool            // JSON only: "jsonrpc" was there
}

// errMalformed is a body that is no call at all; xapi answers it with an HTTP 500 page.
var errMalformed = errors.New("malformed request")

// parseJSON reads a JSON-RPC 1.0 or 2.0 call. Batches and notifications are malformed, as for xapi.
func parseJSON(body []byte) (*request, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var raw struct {
		Version json.RawMessage `json:"jsonrpc"`
		Method  *string         `json:"method"`
		Params  any             `json:"params"`
		ID      json.RawMessage `json:"id"`
	}
	if err := dec.Decode(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: Yojson.Json_error(\"Blank input data\")", errMalformed)
		}
		return nil, fmt.Errorf("%w: Yojson.Json_error(%q)", errMalformed, err.Error())
	}
	if raw.Method == nil {
		return nil, fmt.Errorf("%w: Jsonrpc.Malformed_method_request(\"Request must contain 'method'\")", errMalformed)
	}
	if len(raw.ID) == 0 {
		return nil, fmt.Errorf("%w: Jsonrpc.Malformed_method_request(\"Invalid jsonrpc request without 'id'\")", errMalformed)
	}
	r := &request{method: *raw.Method, id: raw.ID, v2: len(raw.Version) > 0}
	switch p := fromJSON(raw.Params).(type) {
	case nil:
	case []any:
		r.params = p
	default: // named parameters arrive as one dictionary
		r.params = []any{p}
	}
	return r, nil
}

func fromJSON(v any) any {
	switch x := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return i
		}
		f, err := x.Float64()
		if err != nil {
			return x.String()
		}
		return f
	case []any:
		for i := range x {
			x[i] = fromJSON(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = fromJSON(x[k])
		}
	}
	return v
}

// answerJSON writes the answer in the version of the request. Members have xapi's order.
func answerJSON(r *request, result any, err error) []byte {
	var b bytes.Buffer
	var f *failure
	switch {
	case errors.As(err, &f) && r.v2:
		b.WriteString(`{"jsonrpc":"2.0","error":{"code":1,"message":`)
		writeJSONString(&b, f.code)
		b.WriteString(`,"data":`)
		writeJSON(&b, anySlice(f.params))
		b.WriteString(`},"id":`)
	case errors.As(err, &f):
		b.WriteString(`{"result":null,"error":`)
		writeJSON(&b, anySlice(append([]string{f.code}, f.params...)))
		b.WriteString(`,"id":`)
	case r.v2:
		b.WriteString(`{"jsonrpc":"2.0","result":`)
		writeJSON(&b, result)
		b.WriteString(`,"id":`)
	default:
		b.WriteString(`{"result":`)
		writeJSON(&b, result)
		b.WriteString(`,"error":null,"id":`)
	}
	b.Write(r.id)
	b.WriteByte('}')
	return b.Bytes()
}

func anySlice(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

// writeJSON writes a value; nothing (void) is the empty string.
func writeJSON(b *bytes.Buffer, v any) {
	switch x := v.(type) {
	case nil:
		b.WriteString(`""`)
	case string:
		writeJSONString(b, x)
	case date:
		writeJSONString(b, string(x))
	case int64:
		b.WriteString(strconv.FormatInt(x, 10))
	case count:
		b.WriteString(strconv.FormatInt(int64(x), 10))
	case float64:
		b.WriteString(floatText(x))
	case bool:
		b.WriteString(strconv.FormatBool(x))
	case []any:
		b.WriteByte('[')
		for i, item := range x {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, item)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for i, k := range slices.Sorted(maps.Keys(x)) {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSONString(b, k)
			b.WriteByte(':')
			writeJSON(b, x[k])
		}
		b.WriteByte('}')
	case ordered:
		b.WriteByte('{')
		for i, p := range x {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSONString(b, p.key)
			b.WriteByte(':')
			writeJSON(b, p.val)
		}
		b.WriteByte('}')
	case *record:
		b.WriteByte('{')
		for i, f := range x.class.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSONString(b, f.name)
			b.WriteByte(':')
			writeJSON(b, x.vals[i])
		}
		b.WriteByte('}')
	}
}

func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".eEnI") {
		s += ".0"
	}
	return s
}

func writeJSONString(b *bytes.Buffer, s string) {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			text, err := json.Marshal(s)
			if err != nil { // cannot be: a string always marshals
				text = []byte(`""`)
			}
			b.Write(text)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(s)
	b.WriteByte('"')
}
