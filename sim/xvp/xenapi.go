package xvp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"slipway/workers/console/rfb"
	"slipway/workers/console/xvp"
)

const (
	connectTimeout = 10 * time.Second
	maxLocation    = 255 // xvp's buffer for a console's address
	maxAnswer      = 1 << 20
)

// consoleSource says where displays come from: a XenAPI server at "https://host:port", "http://host:port" or "host:port", or the picture
// when it is empty.
func consoleSource(xenapi string) source {
	if xenapi == "" {
		return picture
	}
	if !strings.Contains(xenapi, "://") {
		xenapi = "https://" + xenapi
	}
	return func(ctx context.Context, c console) (io.ReadWriteCloser, [24]byte, error) {
		return fetch(ctx, xenapi, c)
	}
}

// fetch opens a machine's console by the calls of xvp 1.16.0, in their order (server/xenapi.c). Like xvp it checks no certificate and never
// logs out. It does not follow a console that moves: the session ends with it.
func fetch(ctx context.Context, server string, c console) (io.ReadWriteCloser, [24]byte, error) {
	var none [24]byte
	at, err := url.Parse(server)
	if err != nil {
		return nil, none, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	api := newAPI(server)
	defer api.http.CloseIdleConnections()
	location, session, err := api.location(ctx, c)
	if err != nil {
		return nil, none, err
	}
	conn, err := dial(ctx, at)
	if err != nil {
		return nil, none, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	init, err := open(conn, location, session)
	if !stop() && err == nil { // the time was up while the last byte came
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, none, errors.Join(err, conn.Close())
	}
	return conn, init, nil
}

func noCheck() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // so does xvp
}

func dial(ctx context.Context, at *url.URL) (net.Conn, error) {
	if at.Scheme == "http" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
	}
	return (&tls.Dialer{Config: noCheck()}).DialContext(ctx, "tcp", at.Host)
}

// open asks for the console's stream and speaks RFB 3.3 without authentication to it.
func open(conn net.Conn, location *url.URL, session string) ([24]byte, error) {
	var init [24]byte
	request := fmt.Sprintf("CONNECT /%s&session_id=%s HTTP/1.0\r\n\r\n", strings.TrimPrefix(location.RequestURI(), "/"), session)
	if _, err := io.WriteString(conn, request); err != nil {
		return init, err
	}
	status, err := headerLine(conn)
	if err != nil {
		return init, err
	}
	if status != "HTTP/1.1 200 OK" { // xvp compares the whole line
		return init, fmt.Errorf("console: %q", status)
	}
	for range 64 {
		line, err := headerLine(conn)
		if err != nil {
			return init, err
		}
		if line == "" {
			return greet(conn)
		}
	}
	return init, errors.New("console: too many header lines")
}

// headerLine reads a line byte by byte, so that nothing of the stream behind the header is taken.
func headerLine(r io.Reader) (string, error) {
	var line []byte
	for len(line) <= maxLocation {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", fmt.Errorf("console header: %w", err)
		}
		if b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("console header: a line is too long")
}

func greet(conn net.Conn) ([24]byte, error) {
	var init [24]byte
	version := make([]byte, 12)
	if _, err := io.ReadFull(conn, version); err != nil {
		return init, err
	}
	if !bytes.HasPrefix(version, []byte("RFB 003.")) {
		return init, fmt.Errorf("console speaks %q", version)
	}
	if _, err := io.WriteString(conn, "RFB 003.003\n"); err != nil {
		return init, err
	}
	var security uint32
	if err := binary.Read(conn, binary.BigEndian, &security); err != nil {
		return init, err
	}
	if security != rfb.None {
		return init, fmt.Errorf("console wants security type %d", security)
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return init, err
	}
	if _, err := io.ReadFull(conn, init[:]); err != nil {
		return init, err
	}
	_, err := io.CopyN(io.Discard, conn, int64(min(binary.BigEndian.Uint32(init[20:]), maxAnswer)))
	return init, err
}

// api speaks XML-RPC to a XenAPI server.
type api struct {
	url  string
	http *http.Client
}

func newAPI(server string) *api {
	return &api{url: server + "/", http: &http.Client{
		Transport: &http.Transport{TLSClientConfig: noCheck(), DialContext: (&net.Dialer{}).DialContext},
		Timeout:   connectTimeout,
	}}
}

// location finds the machine's console by the calls of xvp, in their order.
func (a *api) location(ctx context.Context, c console) (*url.URL, string, error) {
	password, err := xvp.DecryptXen(c.pool.ManagerPassword)
	if err != nil {
		return nil, "", err
	}
	session, err := a.call(ctx, "session.login_with_password", c.pool.Manager, password.Reveal(), "1.5")
	if err != nil {
		return nil, "", err
	}
	key := session.string()
	host, err := a.call(ctx, "session.get_this_host", key, key)
	if err != nil {
		return nil, "", err
	}
	if _, err := a.call(ctx, "host.get_API_version_minor", key, host.string()); err != nil {
		return nil, "", err
	}
	vm, err := a.machine(ctx, key, c.vm.Name)
	if err != nil {
		return nil, "", err
	}
	consoles, err := a.call(ctx, "VM.get_consoles", key, vm)
	if err != nil {
		return nil, "", err
	}
	for _, ref := range consoles.Array {
		at, err := a.consoleAt(ctx, key, ref.string())
		if err != nil {
			return nil, "", err
		}
		if at == nil {
			continue
		}
		// The set of classes is an array; what comes of them is not waited for here.
		_, err = a.callWith(ctx, "event.register", stringParam(key), "<value><array><data><value>console</value></data></array></value>")
		return at, key, err
	}
	return nil, "", fmt.Errorf("%s: console not found", c.vm.Name)
}

func (a *api) machine(ctx context.Context, session, name string) (string, error) {
	vm, err := a.call(ctx, "VM.get_by_uuid", session, name)
	if err != nil {
		if vm, err = a.call(ctx, "VM.get_by_name_label", session, name); err != nil {
			return "", err
		}
		if len(vm.Array) != 1 {
			return "", fmt.Errorf("%s: %d machines have the name", name, len(vm.Array))
		}
		vm = vm.Array[0]
	}
	_, err = a.call(ctx, "VM.get_name_label", session, vm.string())
	return vm.string(), err
}

// consoleAt is nil for a console that is no framebuffer.
func (a *api) consoleAt(ctx context.Context, session, ref string) (*url.URL, error) {
	protocol, err := a.call(ctx, "console.get_protocol", session, ref)
	if err != nil || protocol.string() != "rfb" {
		return nil, err
	}
	location, err := a.call(ctx, "console.get_location", session, ref)
	if err != nil {
		return nil, err
	}
	if text := location.string(); len(text) > maxLocation || !strings.HasPrefix(text, "https://") {
		return nil, fmt.Errorf("console address %q is too long, or no https one", text)
	}
	return url.Parse(location.string())
}

// value is an XML-RPC value: a string in a tag or bare, an array, or a struct.
type value struct {
	Bare    string   `xml:",chardata"`
	String  *string  `xml:"string"`
	Array   []value  `xml:"array>data>value"`
	Members []member `xml:"struct>member"`
}

type member struct {
	Name  string `xml:"name"`
	Value value  `xml:"value"`
}

func (v value) string() string {
	if v.String != nil {
		return *v.String
	}
	return v.Bare
}

func (v value) member(name string) value {
	for _, m := range v.Members {
		if m.Name == name {
			return m.Value
		}
	}
	return value{}
}

func stringParam(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder never fails
	return "<value><string>" + b.String() + "</string></value>"
}

func (a *api) call(ctx context.Context, method string, params ...string) (value, error) {
	for i, p := range params {
		params[i] = stringParam(p)
	}
	return a.callWith(ctx, method, params...)
}

func (a *api) callWith(ctx context.Context, method string, params ...string) (value, error) {
	var body strings.Builder
	body.WriteString(`<?xml version="1.0"?><methodCall><methodName>` + method + `</methodName><params>`)
	for _, p := range params {
		body.WriteString("<param>" + p + "</param>")
	}
	body.WriteString("</params></methodCall>")
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, strings.NewReader(body.String()))
	if err != nil {
		return value{}, err
	}
	request.Header.Set("Content-Type", "text/xml")
	response, err := a.http.Do(request)
	if err != nil {
		return value{}, fmt.Errorf("%s: %w", method, err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Value value `xml:"params>param>value"`
	}
	if err := xml.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer); err != nil {
		return value{}, fmt.Errorf("%s: HTTP %d: %w", method, response.StatusCode, err)
	}
	if answer.Value.member("Status").string() != "Success" {
		var words []string
		for _, word := range answer.Value.member("ErrorDescription").Array {
			words = append(words, word.string())
		}
		return value{}, fmt.Errorf("%s: %s", method, strings.Join(words, " "))
	}
	return answer.Value.member("Value"), nil
}
