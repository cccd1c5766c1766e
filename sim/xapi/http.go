package xapi

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
)

// bodyMost bounds a call; xapi refuses 3 MB.
const bodyMost = 2 << 20

const serverPage = "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. " +
	"If the problem persists, please contact your support representative.<h1> Additional information </h1>%s</body></html>"

// Handler answers as the pool's master: JSON-RPC on /jsonrpc, XML-RPC by POST to any other path, the console by CONNECT and by WebSocket.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.route(w, r, s.dispatch) })
}

// SlaveHandler answers as member host (1 is the first after the master): every login is sent to the master by HOST_IS_SLAVE, and other
// calls, which a real member would forward to its master only for its own sessions, get the same answer.
func (s *Server) SlaveHandler(host int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.route(w, r, func(ctx context.Context, q *request) (any, error) { return s.slave(ctx, q, host) })
	})
}

func (s *Server) slave(ctx context.Context, q *request, host int) (any, error) {
	switch q.method {
	case listMethods, "session.slave_local_login_with_password", "session.slave_local_login", "session.local_logout", "host.is_in_emergency_mode":
		return s.dispatch(ctx, q)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if host <= 0 || host >= len(s.hosts) {
		return nil, internal("no such host")
	}
	return nil, fail("HOST_IS_SLAVE", s.hosts[0].str("address"))
}

// MasterAddress is the address that HOST_IS_SLAVE names.
func (s *Server) MasterAddress() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[0].str("address")
}

func (s *Server) route(w http.ResponseWriter, r *http.Request, answer func(context.Context, *request) (any, error)) {
	switch r.Method {
	case http.MethodPost:
		s.rpc(w, r, answer)
	case http.MethodConnect:
		s.console(w, r)
	case http.MethodOptions:
		h := w.Header()
		h.Set("Cache-Control", "no-cache, no-store")
		h.Set("Access-Control-Allow-Origin", "*")
		allowed := "X-Requested-With"
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			allowed = asked + ", " + allowed
		}
		h.Set("Access-Control-Allow-Headers", allowed)
		h.Set("Access-Control-Allow-Methods", "PUT")
	case http.MethodHead:
		page(w, http.StatusNotImplemented, "<html><body><h1>HTTP 501 Method Not Implemented</h1><p>Unknown HEAD not supported.<br /></p></body></html>")
	default:
		if s.bulk(w, r) {
			return
		}
		if r.URL.Path == "/console" && r.Method == http.MethodGet {
			s.console(w, r)
			return
		}
		page(w, http.StatusForbidden, "<html><body><h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.</body></html>")
	}
}

func (s *Server) rpc(w http.ResponseWriter, r *http.Request, answer func(context.Context, *request) (any, error)) {
	if r.ContentLength < 0 {
		page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, html.EscapeString(`Failure("We require a content-length: HTTP header")`)))
		return
	}
	if r.ContentLength > bodyMost {
		page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, "Http_svr.Client_requested_size_over_limit"))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMost))
	if err != nil {
		return // the client went away
	}
	isJSON := r.URL.Path == "/jsonrpc"
	parse, kind := parseXML, "text/xml"
	if isJSON {
		parse, kind = parseJSON, "application/json"
	}
	q, err := parse(body)
	if err != nil {
		text := strings.TrimPrefix(err.Error(), errMalformed.Error()+": ")
		page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, html.EscapeString(text)))
		return
	}
	result, err := answer(r.Context(), q)
	if s.lose(r, err) {
		return
	}
	var out []byte
	if isJSON {
		out = answerJSON(q, result, err)
	} else {
		out = answerXML(q, result, err)
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", fmt.Sprint(len(out)))
	h.Set("Cache-Control", "no-cache, no-store")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With")
	if !r.Close {
		h.Set("Connection", "keep-alive")
	}
	if _, err := w.Write(out); err != nil {
		s.log.Debug("answer not taken", "method", q.method, "error", err)
	}
}

// lose does what a fault asks of the answer: nothing comes, or the connection ends.
func (s *Server) lose(r *http.Request, err error) bool {
	switch {
	case errors.Is(err, errHang):
		select {
		case <-r.Context().Done():
		case <-s.base.Done():
		}
		panic(http.ErrAbortHandler) // net/http's way to close a connection without an answer
	case errors.Is(err, errClose):
		panic(http.ErrAbortHandler)
	}
	return false
}

func page(w http.ResponseWriter, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/html")
	h.Set("Content-Length", fmt.Sprint(len(body)))
	h.Set("Connection", "close")
	h.Set("Cache-Control", "no-cache, no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client may be gone
}
