package xapi

import (
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// connect is the console: after the head, the connection carries RFB. The session comes in a cookie, in the query or as HTTP Basic.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	hj, ok := w.(http.Hijacker)
	if !ok {
		page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, "no raw connection"))
		return
	}
	query := r.URL.Query()
	if !s.consoleLogin(r, query.Get("session_id")) {
		s.refuse(hj, r, "401 Unauthorised", "<html><body><h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.</body></html>",
			"WWW-Authenticate: Basic realm=\"connect_console\"\r\n")
		return
	}
	vm, uuid, name, problem := s.consoleVM(query.Get("uuid"), query.Get("ref"))
	if problem != "" {
		s.refuse(hj, r, "500 Internal Error", fmt.Sprintf(serverPage, html.EscapeString(problem)), "")
		return
	}
	var screen net.Conn // of a real guest
	if s.cfg.Guests != nil {
		var err error
		if screen, err = s.cfg.Guests.Console(r.Context(), uuid); err != nil {
			s.refuse(hj, r, "500 Internal Error", fmt.Sprintf(serverPage, html.EscapeString(err.Error())), "")
			return
		}
		defer screen.Close() //nolint:errcheck // nothing is left to be done about it
	}
	conn, buf, err := hj.Hijack()
	if err != nil {
		s.log.Debug("console: hijack", "error", err)
		return
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done about it
	stop := s.closeWith(conn)
	defer stop()
	if _, err := buf.WriteString("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache, no-store\r\n\r\n"); err != nil {
		return
	}
	if screen != nil {
		if buf.Flush() == nil {
			s.relay(conn, buf.Reader, screen)
		}
		return
	}
	f := &framebuffer{
		conn: conn, r: buf.Reader, w: buf.Writer, name: name,
		alive: func() bool { return s.runs(vm) }, shown: -1,
		key: func(keysym uint32) {
			if s.cfg.OnKey != nil {
				s.cfg.OnKey(name, keysym)
			}
		},
	}
	if err := f.serve(); err != nil {
		s.log.Debug("console ended", "vm", vm, "error", err)
	}
}

// refuse writes a head of its own, since xapi's reason phrases are not those of net/http and HTTP/1.0 is answered in kind.
func (s *Server) refuse(hj http.Hijacker, r *http.Request, status, body, more string) {
	conn, buf, err := hj.Hijack()
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done about it
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(buf, "%s %s\r\ncontent-length: %d\r\ncontent-type: text/html\r\nconnection: close\r\ncache-control: no-cache, no-store\r\n%s\r\n%s",
		r.Proto, status, len(body), more, body)
	_ = buf.Flush()
}

func (s *Server) consoleLogin(r *http.Request, query string) bool {
	ref := query
	if c, err := r.Cookie("session_id"); ref == "" && err == nil {
		ref = c.Value
	}
	if ref != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.sessions[ref] != nil
	}
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
	if !ok {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	user, password, _ := strings.Cut(string(raw), ":")
	return s.authentic(user, password)
}

// consoleVM finds the running VM of a console, by the console's or the VM's own uuid or reference.
func (s *Server) consoleVM(uuid, ref string) (vm, vmUUID, name, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db
	if uuid == "" && ref == "" {
		return "", "", "", "Console.Failure"
	}
	var o *object
	key := uuid
	switch {
	case uuid != "":
		if o = db.tables[db.class("console")].byUUID[uuid]; o == nil {
			o = db.tables[db.class("VM")].byUUID[uuid]
		}
	default:
		key, o = ref, db.objs[ref]
	}
	if o != nil && o.class.name == "console" {
		o = db.get("VM", o.str("VM"))
	}
	if o == nil || o.class.name != "VM" || len(o.set("consoles")) == 0 {
		return "", "", "", fmt.Sprintf(`Db_exn.Read_missing_uuid("console", "", "%s")`, key)
	}
	return o.ref, o.str("uuid"), o.str("name_label"), ""
}

// relay carries a viewer's bytes to a guest's screen and back until one of them leaves.
func (s *Server) relay(viewer net.Conn, words io.Reader, screen net.Conn) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(viewer, screen)
		_ = viewer.Close()
	})
	_, _ = io.Copy(screen, words)
	_ = screen.Close()
	back.Wait()
}

func (s *Server) runs(ref string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm := s.db.get("VM", ref)
	return vm != nil && vm.str("resident_on") != nullRef
}

// closeWith closes a raw connection when the server stops.
func (s *Server) closeWith(conn net.Conn) (stop func()) {
	done := make(chan struct{})
	s.goWork(func() {
		select {
		case <-s.base.Done():
			_ = conn.Close()
		case <-done:
		}
	})
	return func() { close(done) }
}
