package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"slipway/orchestrator"
)

const (
	cookieName = "slipway_console"
	maxTicket  = 4 << 10 // bytes of a request for a session
)

// Codes of what keeps a viewer out, in answers and as the reasons of metrics. The page has the words.
const (
	codeExpired     = "expired"
	codeUsed        = "used"
	codeRevoked     = "revoked"
	codeUnknown     = "unknown"
	codeAddress     = "address"
	codeOrigin      = "origin"
	codeClosed      = "closed"      // the machine has no console now
	codeOff         = "off"         // the machine is not running
	codeUnreachable = "unreachable" // the host's console does not answer
	codePlace       = "place"       // the pool names no usable place for the screen
	codeBusy        = "busy"        // too many look already
	codeAway        = "away"        // our own database
)

// codeOf is the code of an error, and its HTTP status.
func codeOf(err error) (code string, status int) {
	switch {
	case errors.Is(err, orchestrator.ErrPassExpired):
		return codeExpired, http.StatusUnauthorized
	case errors.Is(err, orchestrator.ErrPassUsed):
		return codeUsed, http.StatusUnauthorized
	case errors.Is(err, orchestrator.ErrPassRevoked):
		return codeRevoked, http.StatusUnauthorized
	case errors.Is(err, orchestrator.ErrPassAddress):
		return codeAddress, http.StatusForbidden
	case errors.Is(err, errClosed):
		return codeClosed, http.StatusGone
	case errors.Is(err, orchestrator.ErrNotRunning):
		return codeOff, http.StatusServiceUnavailable
	case errors.Is(err, orchestrator.ErrDisplayPlace):
		return codePlace, http.StatusServiceUnavailable
	case errors.Is(err, orchestrator.ErrNotFound):
		return codeUnknown, http.StatusUnauthorized
	}
	return codeAway, http.StatusServiceUnavailable
}

// Handler serves the page, its assets, the sessions and the screens, all below the URL's path.
func (g *Gateway) Handler() http.Handler {
	base := g.cfg.URL.Path
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base+"/m/{machine}/{$}", g.page)
	mux.Handle("GET "+base+"/assets/", http.StripPrefix(base+"/assets", assets()))
	mux.HandleFunc("POST "+base+"/m/{machine}/session", g.openSession)
	mux.HandleFunc("GET "+base+"/m/{machine}/session", g.showSession)
	mux.HandleFunc("GET "+base+"/m/{machine}/socket", g.socket)
	return g.secured(mux)
}

// ServeHTTP serves on a listener until ctx ends, then gives up what is open and waits for it.
func (g *Gateway) ServeHTTP(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: g.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener{l, g}) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close()
		}
		<-done
	}
	g.open.Wait() // hijacked connections, which end with ctx
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// secured sets the headers that every answer has: nothing from elsewhere is loaded, nobody frames the page, nobody learns its address.
func (g *Gateway) secured(next http.Handler) http.Handler {
	socket := *g.cfg.URL // older browsers do not count ws: as 'self'
	socket.Scheme = strings.Replace(socket.Scheme, "http", "ws", 1)
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' " + socket.Scheme + "://" + socket.Host +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if g.cfg.URL.Scheme == "https" {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin reports whether a browser says that our own page asks. Without the header it is no browser: a link and a cookie are wanted of
// it all the same.
func (g *Gateway) sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Header.Get("Sec-Fetch-Site") == ""
	}
	u, err := url.Parse(origin)
	return err == nil && u.Scheme == g.cfg.URL.Scheme && strings.EqualFold(u.Host, g.cfg.URL.Host)
}

func (g *Gateway) isProxy(a netip.Addr) bool {
	for _, p := range g.cfg.Proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// client is the address that a request comes from: of the addresses in X-Forwarded-For the last that no trusted proxy has.
func (g *Gateway) client(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	from := at.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && g.isProxy(from); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = hop.Unmap()
	}
	return from
}

type sessionView struct {
	Machine string    `json:"machine"`
	Name    string    `json:"name"`
	State   string    `json:"state"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
}

type refusalView struct {
	Code string `json:"code"`
}

func (g *Gateway) refuse(w http.ResponseWriter, code string, status int) {
	g.metrics.refused.WithLabelValues(code).Inc()
	answer(w, status, refusalView{code})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the viewer has gone if this fails
}

// openSession exchanges the link's token for a cookie.
func (g *Gateway) openSession(w http.ResponseWriter, r *http.Request) {
	if !g.sameOrigin(r) {
		g.refuse(w, codeOrigin, http.StatusForbidden)
		return
	}
	var ticket struct {
		Token string `json:"token"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTicket))
	if err != nil || json.Unmarshal(body, &ticket) != nil {
		g.refuse(w, codeUnknown, http.StatusBadRequest)
		return
	}
	token, ok := hashOf(ticket.Token)
	if !ok {
		g.refuse(w, codeUnknown, http.StatusUnauthorized)
		return
	}
	text, session := newPass()
	machine := r.PathValue("machine")
	pass, err := g.cfg.Store.RedeemToken(r.Context(), token, session, machine, g.client(r), g.cfg.SessionAge)
	if err != nil {
		g.refusePass(w, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: text, Path: g.cfg.URL.Path + "/m/" + pass.Machine + "/", MaxAge: int(g.cfg.SessionAge.Seconds()),
		HttpOnly: true, Secure: g.cfg.URL.Scheme == "https", SameSite: http.SameSiteStrictMode,
	})
	g.view(w, r, pass)
}

// showSession tells whose screen the cookie opens.
func (g *Gateway) showSession(w http.ResponseWriter, r *http.Request) {
	pass, err := g.session(r)
	if err != nil {
		g.refusePass(w, err)
		return
	}
	g.view(w, r, pass)
}

func (g *Gateway) refusePass(w http.ResponseWriter, err error) {
	code, status := codeOf(err)
	if code == codeAway {
		g.cfg.Log.Warn("console passes cannot be read", "error", err)
	}
	g.refuse(w, code, status)
}

func (g *Gateway) view(w http.ResponseWriter, r *http.Request, pass orchestrator.ConsolePass) {
	m, err := g.cfg.Store.Machine(r.Context(), pass.Machine)
	if err != nil {
		g.refusePass(w, err)
		return
	}
	answer(w, http.StatusOK, sessionView{Machine: m.ID, Name: m.Name, State: m.State, User: pass.User, Expires: pass.Expires})
}

// session is the pass of the request's cookie.
func (g *Gateway) session(r *http.Request) (orchestrator.ConsolePass, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return orchestrator.ConsolePass{}, orchestrator.E("console", orchestrator.Permanent, orchestrator.ErrNotFound)
	}
	hash, ok := hashOf(cookie.Value)
	if !ok {
		return orchestrator.ConsolePass{}, orchestrator.E("console", orchestrator.Permanent, orchestrator.ErrNotFound)
	}
	return g.cfg.Store.Session(r.Context(), hash, r.PathValue("machine"), g.client(r))
}
