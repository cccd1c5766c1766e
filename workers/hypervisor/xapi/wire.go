package xapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
)

// Ref is an opaque reference, "OpaqueRef:…". It names an object until the object goes or the pool's database is rebuilt; uuids are what
// to store for longer.
type Ref string

// Null is XenAPI's "no object".
const Null Ref = "OpaqueRef:NULL"

// IsNull reports whether the reference names nothing.
func (r Ref) IsNull() bool { return r == "" || r == Null }

// valid reports whether the text can be a reference at all.
func (r Ref) valid() bool {
	name, ok := strings.CutPrefix(string(r), "OpaqueRef:")
	return ok && name != "" && len(r) <= 128 && !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}

type request struct {
	JSONRPC string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
	ID      uint64 `json:"id"`
}

type response struct {
	JSONRPC string          `json:"jsonrpc"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Message string   `json:"message"`
		Data    []string `json:"data"`
	} `json:"error"`
	ID *uint64 `json:"id"`
}

// wire posts single calls. It knows nothing of sessions.
type wire struct {
	http   *http.Client
	nextID atomic.Uint64
	hide   string // the password: never in an error, whatever a server echoes
}

// post makes one exchange with one member. The error is *Error when xapi answered with a code, else *lostError.
func (w *wire) post(ctx context.Context, member *url.URL, session Ref, method string, result any, params []any) error {
	id := w.nextID.Add(1)
	body, err := json.Marshal(request{JSONRPC: "2.0", Method: method, Params: params, ID: id})
	if err != nil {
		return &lostError{method: method, err: fmt.Errorf("arguments: %w", err)}
	}
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, member.String(), bytes.NewReader(body))
	if err != nil {
		return &lostError{method: method, err: errors.New("member address is no URL")}
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := w.http.Do(req)
	if err != nil {
		return &lostError{method: method, sent: connected.Load(), err: unwrapURL(err, member)}
	}
	defer answer.Body.Close()
	lost := func(err error) error {
		return &lostError{method: method, sent: true, answered: true, err: fmt.Errorf("%s: %w", member.Host, err)}
	}
	if answer.StatusCode != http.StatusOK {
		return lost(fmt.Errorf("HTTP status %d", answer.StatusCode))
	}
	most := limit(method)
	raw, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err == nil {
		err = ctx.Err() // a body that was cut off at our own end may look whole
	}
	switch {
	case err != nil: // cut off: the member went away, another one may know
		return &lostError{method: method, sent: true, err: fmt.Errorf("%s: %w", member.Host, err)}
	case int64(len(raw)) > most:
		return lost(fmt.Errorf("the answer is longer than %d bytes", most))
	case dense(raw):
		return lost(fmt.Errorf("the answer has more values than its %d bytes can be about", len(raw)))
	}
	var r response
	if err := json.Unmarshal(raw, &r); err != nil {
		return lost(fmt.Errorf("the answer is no JSON-RPC: %w", shapeOnly(err)))
	}
	switch {
	case r.JSONRPC != "2.0" || r.ID == nil || *r.ID != id:
		return lost(errors.New("the answer is not to this call (version or id differ)"))
	case r.Error != nil:
		return w.failure(method, session, r.Error.Message, r.Error.Data)
	case r.Result == nil:
		return lost(errors.New("the answer has neither result nor error"))
	case result == nil:
		return nil
	}
	// What is asked for is never null: no object is "OpaqueRef:NULL", and nothing is "".
	if bytes.Equal(r.Result, []byte("null")) {
		return lost(errors.New("the result is null"))
	}
	if err := decode(r.Result, result); err != nil {
		return lost(fmt.Errorf("the result has another shape than %T: %w", result, shapeOnly(err)))
	}
	return nil
}

// failure makes the typed error, bounded, with our own session and password taken out of whatever the server echoed: xapi names the
// session in SESSION_INVALID, and prints whole calls in some of its INTERNAL_ERRORs.
func (w *wire) failure(method string, session Ref, code string, params []string) error {
	if len(params) > maxErrorParams {
		params = params[:maxErrorParams]
	}
	e := &Error{Method: method, Code: w.scrub(session, code), Params: make([]string, 0, len(params))}
	for _, p := range params {
		if len(p) > maxErrorParam {
			p = p[:maxErrorParam]
		}
		e.Params = append(e.Params, w.scrub(session, p))
	}
	return e
}

func (w *wire) scrub(session Ref, s string) string {
	if session != "" {
		s = strings.ReplaceAll(s, string(session), "[session]")
	}
	if w.hide != "" {
		s = strings.ReplaceAll(s, w.hide, "[redacted]")
	}
	return s
}

// unwrapURL drops net/http's "Post URL:" prefix and names the member once.
func unwrapURL(err error, member *url.URL) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s: %w", member.Host, err)
}

// decode reads a result, which is known to be JSON: the records of a pool are not looked through once more for that.
func decode(text json.RawMessage, result any) error {
	if u, ok := result.(json.Unmarshaler); ok {
		return u.UnmarshalJSON(text)
	}
	return json.Unmarshal(text, result)
}

// shapeOnly keeps the kind of a decoding error but not the foreign bytes that some of them quote.
func shapeOnly(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return fmt.Errorf("field %q is of another type", printable(t.Field))
	}
	var why unfit
	if errors.As(err, &why) {
		return why
	}
	return errors.New("malformed JSON")
}

// repeatable reports whether a call only reads, so that asking twice changes nothing.
func repeatable(method string) bool {
	_, verb, _ := strings.Cut(method, ".")
	return strings.HasPrefix(verb, "get_") || strings.HasPrefix(verb, "assert_") || method == "event.from" || method == "system.listMethods" ||
		method == "session.login_with_password"
}
