package xapi

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dial opens a raw connection to the pool and sends a head.
func (b *bench) dial(head string) (net.Conn, *bufio.Reader) {
	b.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(b.t.Context(), "tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")); err != nil {
		b.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func (b *bench) head(r *bufio.Reader) (status string, headers map[string]string) {
	b.t.Helper()
	headers = map[string]string{}
	for i := range 50 {
		line, err := r.ReadString('\n')
		if err != nil {
			b.t.Fatalf("head: %v after %q", err, line)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return status, headers
		}
		if i == 0 {
			status = line
			continue
		}
		k, v, _ := strings.Cut(line, ":")
		headers[strings.ToLower(k)] = strings.TrimSpace(v)
	}
	b.t.Fatal("endless head")
	return "", nil
}

func (b *bench) running() (vm, location string) {
	b.t.Helper()
	vm = b.machine("on screen")
	b.must("VM.start", vm, false, false)
	console := b.must("VM.get_consoles", vm).([]any)[0]
	return vm, b.record("console", console)["location"].(string)
}

func TestConsoleCarriesRFB(t *testing.T) {
	b := newBench(t, nil)
	vm, location := b.running()
	_, query, _ := strings.Cut(location, "/console?")
	for _, version := range []string{"RFB 003.003\n", "RFB 003.008\n"} {
		conn, r := b.dial(fmt.Sprintf("CONNECT /console?%s HTTP/1.0\nCookie: session_id=%s\n\n", query, b.session))
		if status, _ := b.head(r); status != "HTTP/1.1 200 OK" { // xvp takes this line and no other
			t.Fatalf("status %q", status)
		}
		expect := func(want string) {
			t.Helper()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
				t.Fatalf("%s: got %q, %v, want %q", version, got, err, want)
			}
		}
		send := func(text string) {
			t.Helper()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
		}
		expect("RFB 003.008\n")
		send(version)
		if version == "RFB 003.003\n" {
			expect("\x00\x00\x00\x01")
		} else {
			expect("\x01\x01")
			send("\x01")
			expect("\x00\x00\x00\x00")
		}
		send("\x01") // ClientInit
		init := make([]byte, 24)
		if _, err := io.ReadFull(r, init); err != nil {
			t.Fatal(err)
		}
		w, h := binary.BigEndian.Uint16(init), binary.BigEndian.Uint16(init[2:])
		if w != rfbWidth || h != rfbHeight || binary.BigEndian.Uint32(init[20:]) != uint32(len("on screen")) {
			t.Fatalf("ServerInit %v", init)
		}
		expect("on screen")
		send("\x03\x00\x00\x00\x00\x00\x00\x04\x00\x02") // 4 by 2 pixels
		expect("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x04\x00\x02\x00\x00\x00\x00")
		if _, err := io.ReadFull(r, make([]byte, 4*2*4)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	b.must("VM.hard_shutdown", vm)
	_, r := b.dial(fmt.Sprintf("CONNECT /console?%s HTTP/1.0\nCookie: session_id=%s\n\n", query, b.session))
	if status, _ := b.head(r); status != "HTTP/1.0 500 Internal Error" {
		t.Fatalf("console of a halted VM: %q", status)
	}
}

func TestConsoleAsksWhoIsThere(t *testing.T) {
	b := newBench(t, nil)
	vm, location := b.running()
	_, query, _ := strings.Cut(location, "/console?")
	for name, c := range map[string]struct{ head, status string }{
		"session in the query": {"CONNECT /console?" + query + "&session_id=" + b.session + " HTTP/1.0\n\n", "HTTP/1.1 200 OK"},
		"basic":                {"CONNECT /console?" + query + " HTTP/1.1\nAuthorization: Basic cm9vdDpzZWNyZXQ=\n\n", "HTTP/1.1 200 OK"},
		"the VM's reference":   {"CONNECT /console?ref=" + vm + "&session_id=" + b.session + " HTTP/1.0\n\n", "HTTP/1.1 200 OK"},
		"nobody":               {"CONNECT /console?" + query + " HTTP/1.0\n\n", "HTTP/1.0 401 Unauthorised"},
		"bad session":          {"CONNECT /console?" + query + " HTTP/1.0\nCookie: session_id=OpaqueRef:nope\n\n", "HTTP/1.0 401 Unauthorised"},
		"bad password":         {"CONNECT /console?" + query + " HTTP/1.0\nAuthorization: Basic cm9vdDpiYWQ=\n\n", "HTTP/1.0 401 Unauthorised"},
		"unknown console":      {"CONNECT /console?uuid=x&session_id=" + b.session + " HTTP/1.0\n\n", "HTTP/1.0 500 Internal Error"},
	} {
		_, r := b.dial(c.head)
		status, headers := b.head(r)
		if status != c.status {
			t.Errorf("%s: %q, want %q", name, status, c.status)
		}
		if strings.Contains(status, "401") && headers["www-authenticate"] != `Basic realm="connect_console"` {
			t.Errorf("%s: %v", name, headers)
		}
	}
}

func TestWire(t *testing.T) {
	b := newBench(t, nil)
	post := func(path, kind, body string) (int, string, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		w, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Body.Close()
		text, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.StatusCode, w.Header.Get("Content-Type"), string(text)
	}
	pool := b.must("pool.get_all").([]any)[0].(string)
	call := func(method, params string) string {
		return "<?xml version='1.0'?><methodCall><methodName>" + method + "</methodName><params>" + params + "</params></methodCall>"
	}
	session := "<param><value><string>" + b.session + "</string></value></param>"
	const success = `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member>`
	const end = `</struct></value></param></params></methodResponse>`
	for name, c := range map[string]struct {
		path, body string
		status     int
		kind, want string
	}{
		"JSON 2.0":         {"/jsonrpc", `{"jsonrpc":"2.0","method":"pool.get_all","params":["` + b.session + `"],"id":"abc"}`, 200, "application/json", `{"jsonrpc":"2.0","result":["` + pool + `"],"id":"abc"}`},
		"JSON 1.0":         {"/jsonrpc", `{"method":"pool.get_all","params":["` + b.session + `"],"id":7}`, 200, "application/json", `{"result":["` + pool + `"],"error":null,"id":7}`},
		"JSON 1.0 failure": {"/jsonrpc", `{"method":"VM.get_record","params":["` + b.session + `","OpaqueRef:nope"],"id":7}`, 200, "application/json", `{"result":null,"error":["HANDLE_INVALID","VM","OpaqueRef:nope"],"id":7}`},
		"JSON failure":     {"/jsonrpc", `{"jsonrpc":"2.0","method":"system.isAlive","params":[],"id":1}`, 200, "application/json", `{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_METHOD_UNKNOWN","data":["system.isAlive"]},"id":1}`},
		"named parameters": {"/jsonrpc", `{"jsonrpc":"2.0","method":"pool.get_all","params":{"session_id":"x"},"id":1}`, 200, "application/json", `{"jsonrpc":"2.0","error":{"code":1,"message":"INTERNAL_ERROR","data":["Failure(\"Expected string, got '{session_id:S(x)}'\")"]},"id":1}`},
		"notification":     {"/jsonrpc", `{"jsonrpc":"2.0","method":"pool.get_all","params":[]}`, 500, "text/html", ""},
		"batch":            {"/jsonrpc", `[{"jsonrpc":"2.0","method":"pool.get_all","params":[],"id":1}]`, 500, "text/html", ""},
		"bad JSON":         {"/jsonrpc", `{]`, 500, "text/html", ""},
		"too much":         {"/jsonrpc", strings.Repeat(" ", 3000064), 500, "text/html", ""},
		"XML":              {"/", call("pool.get_all", session), 200, "text/xml", success + "<member><name>Value</name><value><array><data><value>" + pool + "</value></data></array></value></member>" + end},
		"XML anywhere":     {"/RPC2", call("pool.get_all", session), 200, "text/xml", success + "<member><name>Value</name><value><array><data><value>" + pool + "</value></data></array></value></member>" + end},
		"XML void":         {"/xmlrpc", call("pool.set_name_label", session+"<param><value>"+pool+"</value></param><param><value>a&amp;b</value></param>"), 200, "text/xml", success + "<member><name>Value</name><value></value></member>" + end},
		"bad XML":          {"/", "nonsense", 500, "text/html", ""},
		"deep XML":         {"/", call("x", "<param>"+strings.Repeat("<value><array><data>", 100)+strings.Repeat("</data></array></value>", 100)+"</param>"), 500, "text/html", ""},
	} {
		status, kind, text := post(c.path, "text/plain", c.body)
		if status != c.status || kind != c.kind || c.want != "" && text != c.want {
			t.Errorf("%s: %d %s\n got %s\nwant %s", name, status, kind, text, c.want)
		}
	}
	if got := b.record("pool", pool)["name_label"]; got != "a&b" {
		t.Errorf("name %q", got)
	}
}
