package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
)

// entry is one line of a recording: a call with its answer, a raw HTTP exchange, or a note.
type entry struct {
	Method string          `json:"method"`
	Params []any           `json:"params"`
	Result any             `json:"result"`
	Error  *recordedError  `json:"error"`
	T      *float64        `json:"t"`  // seconds since the start
	DT     float64         `json:"dt"` // seconds that the call took
	Note   string          `json:"note"`
	HTTP   string          `json:"http"`
	Raw    json.RawMessage `json:"-"`
	Task   string          `json:"task"`   // a remark on how an asynchronous call ended
	Status string          `json:"status"` // of the task
	Info   []any           `json:"error_info"`
	HTTPExchange

	index     int
	beside    bool // others began while it ran
	hasResult bool
	hasError  bool
}

// HTTPExchange is a request as it went out and the head and start of the answer.
type HTTPExchange struct {
	Request      string `json:"request"`
	BodyBytes    int    `json:"request_body_bytes"`
	Head         string `json:"response_head"`
	Body         string `json:"response_body_start"`
	ServerClosed bool   `json:"server_closed"`
}

type recordedError struct {
	Code    int      `json:"code"`
	Message string   `json:"message"`
	Data    []string `json:"data"`
}

type recording struct {
	name    string
	entries []*entry
}

// load reads every *.json of a directory.
func load(dir string) ([]*recording, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: no recording (*.json) here", dir)
	}
	sort.Strings(paths)
	var out []*recording
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		r, err := parse(filepath.Base(path), text)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parse(name string, text []byte) (*recording, error) {
	var raws []json.RawMessage
	if err := json.Unmarshal(text, &raws); err != nil {
		return nil, fmt.Errorf("%s: want a JSON list of exchanges: %w", name, err)
	}
	r := &recording{name: name}
	for i, raw := range raws {
		e := &entry{index: i, Raw: raw}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(e); err != nil {
			return nil, fmt.Errorf("%s: exchange %d: %w", name, i, err)
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(raw, &keys); err != nil {
			return nil, fmt.Errorf("%s: exchange %d: %w", name, i, err)
		}
		_, e.hasResult = keys["result"]
		_, e.hasError = keys["error"]
		r.entries = append(r.entries, e)
	}
	return r, nil
}

func short(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%.100q...", s)
	}
	return fmt.Sprintf("%q", s)
}

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(text) > 160 {
		return string(text[:160]) + "..."
	}
	return string(text)
}
