package xapi

import (
	"bufio"
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

// console shows a VM's screen: after the head, the connection carries RFB, as it is after CONNECT or in a WebSocket's frames after GET. The
// session comes in a cookie, in the query or as HTTP Basic. Only the host where the VM is answers (console.ml, check_vm_is_running_here);
// a pool that is reached at an address that no host has answers for all. The connection ends with the VM's stay on that host.
func (s *Server) console(w http.ResponseWriter, r *http.Request) {
	hj, ok := w.(http.Hijacker)
	if !ok {
		page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, "no raw connection"))
		return
	}
	realm := "connect_console"
	if r.Method == http.MethodGet {
		realm = "connect_console_ws" // datamodel.ml
	}
	query := r.URL.Query()
	if !s.consoleLogin(r, query.Get("session_id")) {
		s.refuse(hj, r, "401 Unauthorised", "<html><body><h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.</body></html>",
			"WWW-Authenticate: Basic realm=\""+realm+"\"\r\n")
		return
	}
	at, uuid, name, problem := s.consoleVM(query.Get("uuid"), query.Get("ref"), localAddress(r))
	if problem != "" {
		s.refuse(hj, r, "500 Internal Error", fmt.Sprintf(serverPage, html.EscapeString(problem)), "")
		return
	}
	head := "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache, no-store\r\n\r\n"
	if r.Method == http.MethodGet {
		if head, ok = upgrade(r.Header); !ok {
			w.Header().Set("Cache-Control", "no-cache, no-store")
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
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
	gone, ok := s.show(at)
	if !ok {
		return
	}
	defer s.shown(gone)
	stop := s.closeWith(conn, gone)
	defer stop()
	if _, err := buf.WriteString(head); err != nil || buf.Flush() != nil {
		return
	}
	viewer := struct {
		io.Reader
		io.Writer
	}{buf.Reader, conn}
	if r.Method == http.MethodGet {
		viewer.Reader, viewer.Writer = &unframed{r: buf.Reader}, framed{conn}
	}
	if screen != nil {
		relay(conn, viewer, screen)
		return
	}
	f := &framebuffer{
		conn: conn, r: bufio.NewReader(viewer), w: bufio.NewWriter(viewer), name: name,
		shown: -1,
		key: func(keysym uint32) {
			if s.cfg.OnKey != nil {
				s.cfg.OnKey(name, keysym)
			}
		},
	}
	if err := f.serve(); err != nil {
		s.log.Debug("console ended", "vm", at.vm, "error", err)
	}
}

// stay is a VM's time on one host, as one domain: what a console shows.
type stay struct {
	vm, host string
	domid    int64
}

// lasts reports whether a VM is still there. The lock is held.
func (s *Server) lasts(at stay) bool {
	vm := s.db.get("VM", at.vm)
	return vm != nil && vm.str("resident_on") == at.host && vm.num("domid") == at.domid
}

// show gives a channel that is closed when the VM's stay ends; false when it has ended already.
func (s *Server) show(at stay) (gone chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lasts(at) {
		return nil, false
	}
	gone = make(chan struct{})
	s.screens[gone] = at
	return gone, true
}

func (s *Server) shown(gone chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.screens, gone)
}

// endScreens ends the consoles of VMs that have gone. The lock is held.
func (s *Server) endScreens() {
	for gone, at := range s.screens {
		if !s.lasts(at) {
			close(gone)
			delete(s.screens, gone)
		}
	}
}

// localAddress is the address that a request came to.
func localAddress(r *http.Request) string {
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return at.IP.String()
	}
	return ""
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

// consoleVM finds the running VM of a console, by the console's or the VM's own uuid or reference, as the host with an address does.
func (s *Server) consoleVM(uuid, ref, address string) (at stay, vmUUID, name, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db
	if uuid == "" && ref == "" {
		return stay{}, "", "", "Console.Failure"
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
		return stay{}, "", "", fmt.Sprintf(`Db_exn.Read_missing_uuid("console", "", "%s")`, key)
	}
	at = stay{vm: o.ref, host: o.str("resident_on"), domid: o.num("domid")}
	if host := db.get("host", at.host); host != nil && host.str("address") != address {
		for _, other := range s.hosts {
			if other.str("address") == address {
				return stay{}, "", "", "Console.Failure"
			}
		}
	}
	return at, o.str("uuid"), o.str("name_label"), ""
}

// relay carries a viewer's bytes to a guest's screen and back until one of them leaves.
func relay(conn net.Conn, viewer io.ReadWriter, screen net.Conn) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(viewer, screen)
		_ = conn.Close()
	})
	_, _ = io.Copy(screen, viewer)
	_ = screen.Close()
	back.Wait()
}

// closeWith closes a raw connection when the server stops or what it shows has gone.
func (s *Server) closeWith(conn net.Conn, gone <-chan struct{}) (stop func()) {
	done := make(chan struct{})
	s.goWork(func() {
		select {
		case <-s.base.Done():
			_ = conn.Close()
		case <-gone:
			_ = conn.Close()
		case <-done:
		}
	})
	return func() { close(done) }
}
