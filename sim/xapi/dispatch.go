package xapi

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// handler does one message. The server's lock is held; pause and await give it away for a while.
type handler func(c *call, args []any) (any, error)

// call is one message on its way through the server.
type call struct {
	s       *Server
	ctx     context.Context // ends with the server; the request's own end stops only event.from
	request context.Context
	msg     *message
	session *session
	ref     string  // of the session
	task    *object // nil until a synchronous call needs one
	parent  *object // the task of the operation that this one is a part of
	async   bool
}

// listMethods is the one message that needs neither class nor session.
const listMethods = "system.listMethods"

// dispatch answers a call. The order of the checks is xapi's: name, number of parameters, session, types.
func (s *Server) dispatch(ctx context.Context, r *request) (any, error) {
	if r.method == listMethods {
		return anySlice(s.db.model.names), nil
	}
	name, async := strings.CutPrefix(r.method, "Async.")
	msg := s.db.model.messages[name]
	if msg == nil {
		return nil, s.unknown(name, r.params)
	}
	if async && (msg.implicit && msg.handler == nil || !msg.sessioned) {
		return nil, fail("Fault", fmt.Sprintf("No async mode for this operation (rpc: %s)", name))
	}
	if err := arity(msg, len(r.params)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	c := &call{s: s, ctx: s.operations, request: ctx, msg: msg, async: async}
	s.mu.Unlock()
	params := r.params
	if msg.sessioned {
		if err := c.open(params[0]); err != nil {
			return nil, err
		}
		params = params[1:]
	}
	if len(params) > len(msg.params) {
		params = params[:len(msg.params)]
	}
	args := make([]any, len(msg.params))
	for i, p := range params {
		v, err := s.db.model.convert(msg.params[i].typ, p)
		if err != nil {
			return nil, err
		}
		args[i] = v
	}
	return c.answer(args)
}

// unknown is the answer to a name that is no message: a bad session is noticed first.
func (s *Server) unknown(name string, params []any) error {
	if len(params) > 0 {
		if ref, ok := params[0].(string); ok {
			s.mu.Lock()
			_, known := s.sessions[ref]
			s.mu.Unlock()
			if !known {
				return fail("SESSION_INVALID", ref)
			}
		}
	}
	return fail("MESSAGE_METHOD_UNKNOWN", name)
}

// arity counts without the session. A message with optional parameters takes any number above its required ones.
func arity(m *message, n int) error {
	if m.sessioned {
		n--
	}
	if n == len(m.params) || n >= m.required && m.required < len(m.params) {
		return nil
	}
	return fail("MESSAGE_PARAMETER_COUNT_MISMATCH", m.full, strconv.Itoa(m.required), strconv.Itoa(n))
}

// open checks the session of a call.
func (c *call) open(v any) error {
	ref, ok := v.(string)
	if !ok {
		return expected("string", v)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	sess := c.s.sessions[ref]
	if sess == nil {
		return fail("SESSION_INVALID", ref)
	}
	c.session, c.ref = sess, ref
	if sess.row != nil {
		sess.row.put("last_active", c.s.today())
	}
	return nil
}

// answer runs the call with the faults that were asked for.
func (c *call) answer(args []any) (any, error) {
	s := c.s
	s.mu.Lock()
	s.calls[c.msg.full]++
	f := s.fault(c.msg.full)
	s.unlock()
	if f != nil && f.When != After && f.lost() {
		return nil, f.lose()
	}
	var result any
	var err error
	if c.async {
		result = c.background(args, f)
	} else {
		result, err = c.run(args, f)
	}
	if f != nil && f.When == After && f.lost() {
		return nil, f.lose()
	}
	return result, err
}

// run does the work under the lock and applies a fault that is an error.
func (c *call) run(args []any, f *armedFault) (any, error) {
	if f != nil && f.When != After && len(f.Error) > 0 {
		return nil, fail(f.Error[0], f.Error[1:]...)
	}
	result, err := c.locked(args)
	if err == nil && f != nil && f.When == After && len(f.Error) > 0 {
		return nil, fail(f.Error[0], f.Error[1:]...)
	}
	if c.ctx.Err() != nil { // a restart came in between
		return nil, errClose
	}
	var coded *failure
	if err != nil && !errors.As(err, &coded) {
		err = internal(err.Error())
	}
	return result, err
}

// locked handles a synchronous call under the lock, and takes away the task that it may have needed.
func (c *call) locked(args []any) (any, error) {
	s := c.s
	s.mu.Lock()
	defer s.unlock()
	result, err := c.handle(args)
	if c.task != nil {
		s.db.destroy(c.task)
	}
	return result, err
}

func (c *call) handle(args []any) (any, error) {
	switch {
	case c.msg.handler != nil:
		return c.msg.handler(c, args)
	default:
		return c.generated(args)
	}
}

// today is the pool's time in the form of its records.
func (s *Server) today() date { return dateOf(s.now()) }

// object resolves a reference that a parameter names.
func (c *call) object(className string, ref any) (*object, error) {
	text, _ := ref.(string)
	if o := c.s.db.get(className, text); o != nil {
		return o, nil
	}
	return nil, fail("HANDLE_INVALID", className, text)
}
