package xvp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
	"slipway/sim/xapi"
	"slipway/workers/console/rfb"
	"slipway/workers/console/xvp"
)

const beXVP = "SLIPWAY_TEST_BE_XVP"

func TestMain(m *testing.M) {
	if os.Getenv(beXVP) == "1" {
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// configuration is a file with one console by that password.
func configuration(t *testing.T, port int, machine, password string) string {
	t.Helper()
	vnc, err := xvp.EncryptVNC(orchestrator.NewSecret(password))
	if err != nil {
		t.Fatal(err)
	}
	xen, err := xvp.EncryptXen(orchestrator.NewSecret("pool secret"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("POOL p\n DOMAIN \"\"\n MANAGER root %s\n HOST 127.0.0.1 h\n VM %d %s %s\n", xen, port, machine, vnc)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func connect(t *testing.T, port int) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func start(t *testing.T, source source, text string) (*server, string) {
	t.Helper()
	path := write(t, filepath.Join(t.TempDir(), "xvp.conf"), text)
	s := newServer("127.0.0.1", source, slog.New(slog.DiscardHandler))
	t.Cleanup(s.close)
	if err := s.load(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return s, path
}

// frame asks for the picture and reads its head.
func frame(t *testing.T, conn net.Conn, bytesPerPixel int) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte{3, 0, 0, 0, 0, 0, 0, width, 0, height}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16+width*height*bytesPerPixel)
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got[:12], []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, width, 0, height}) {
		t.Fatalf("picture: %v, %v", got[:12], err)
	}
}

func TestSession(t *testing.T) {
	port := freePort(t)
	s, path := start(t, picture, configuration(t, port, "vm-1", "right"))
	conn := connect(t, port)
	init, err := rfb.Handshake(t.Context(), conn, orchestrator.NewSecret("right"))
	want := rfb.ServerInit{Version: "3.8", Security: rfb.VNC, Width: width, Height: height, Name: "VM Console - vm-1", Format: [16]byte{32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8}}
	if err != nil || init != want {
		t.Fatalf("got %+v, %v", init, err)
	}
	frame(t, conn, 4)
	messages := []byte{0, 0, 0, 0, 16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0} // 16 bits a pixel
	messages = append(messages, 2, 0, 0, 1, 0, 0, 0, 0)                                  // encodings
	messages = append(messages, 4, 1, 0, 0, 0, 0, 0, 'a', 5, 0, 0, 1, 0, 1, 6, 0, 0, 0, 0, 0, 0, 2, 'h', 'i')
	if _, err := conn.Write(messages); err != nil {
		t.Fatal(err)
	}
	frame(t, conn, 2)

	write(t, path, configuration(t, port, "vm-2", "changed"))
	if err := s.load(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	frame(t, conn, 2) // the session goes on
	if _, err := rfb.Handshake(t.Context(), connect(t, port), orchestrator.NewSecret("right")); !errors.Is(err, rfb.ErrRefused) || !strings.Contains(err.Error(), "Access denied") {
		t.Errorf("the old password: %v", err)
	}
	if _, err := rfb.Handshake(t.Context(), connect(t, port), orchestrator.NewSecret("changed")); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

func TestOlderClients(t *testing.T) {
	port := freePort(t)
	start(t, picture, configuration(t, port, "vm-1", "right"))
	for _, version := range []string{"003", "007"} {
		for _, password := range []string{"right", "wrong"} {
			conn := &olderClient{Conn: connect(t, port), version: "RFB 003." + version + "\n"}
			_, err := rfb.Handshake(t.Context(), conn, orchestrator.NewSecret(password))
			if (password == "right") != (err == nil) || err != nil && !errors.Is(err, rfb.ErrRefused) {
				t.Errorf("3.%s with %s: %v", version, password, err)
			}
		}
	}
}

// olderClient makes both sides believe that the other is old.
type olderClient struct {
	net.Conn
	version string
	read    bool
}

func (o *olderClient) Read(p []byte) (int, error) {
	n, err := io.ReadFull(o.Conn, p[:min(len(p), 12)])
	if !o.read && n == 12 {
		o.read = true
		copy(p, o.version)
		return n, err
	}
	return n, err
}

func TestRequiredOneTimePasswords(t *testing.T) {
	port := freePort(t)
	start(t, picture, "OTP REQUIRE\n"+configuration(t, port, "vm-1", "right"))
	if _, err := rfb.Handshake(t.Context(), connect(t, port), orchestrator.NewSecret("right")); !errors.Is(err, rfb.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestConsoleFromXenAPI(t *testing.T) {
	pool, err := xapi.New(xapi.Config{Password: orchestrator.NewSecret("pool secret"), Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewTLSServer(pool.Handler())
	t.Cleanup(func() {
		pool.Close()
		web.Close()
	})
	rpc := client(t, web)
	session := rpc("session.login_with_password", "root", "pool secret", "2.21", "test").(string)
	template := rpc("VM.get_by_name_label", session, "Debian 12").([]any)[0]
	vm := rpc("VM.clone", session, template, "web-1").(string)
	rpc("VM.provision", session, vm)
	rpc("VM.start", session, vm, false, false)
	machine := rpc("VM.get_uuid", session, vm).(string)

	for name, address := range map[string]string{"by url": web.URL, "by address": strings.TrimPrefix(web.URL, "https://")} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			start(t, consoleSource(address), configuration(t, port, machine, "right"))
			conn := connect(t, port)
			init, err := rfb.Handshake(t.Context(), conn, orchestrator.NewSecret("right"))
			if err != nil || init.Width <= width || init.Name != "VM Console - "+machine {
				t.Fatalf("got %+v, %v", init, err)
			}
			if _, err := conn.Write([]byte{3, 0, 0, 0, 0, 0, 0, 1, 0, 1}); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 4)
			if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 0 {
				t.Errorf("picture of the hypervisor: %v, %v", answer, err)
			}
		})
	}
	t.Run("a machine that is not there", func(t *testing.T) {
		port := freePort(t)
		start(t, consoleSource(web.URL), configuration(t, port, "11111111-2222-3333-4444-555555555501", "right"))
		if _, err := rfb.Authenticate(t.Context(), connect(t, port), orchestrator.NewSecret("right")); err != nil {
			t.Errorf("authentication comes before the machine is looked for: %v", err)
		}
		if _, err := rfb.Handshake(t.Context(), connect(t, port), orchestrator.NewSecret("right")); orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("got %v", err)
		}
	})
}

// client speaks JSON-RPC.
func client(t *testing.T, web *httptest.Server) func(method string, params ...any) any {
	t.Cleanup(web.Client().CloseIdleConnections)
	return func(method string, params ...any) any {
		t.Helper()
		body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, web.URL+"/jsonrpc", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := web.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		var answer struct {
			Result any
			Error  any
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Error != nil {
			t.Fatalf("%s: %v, %v", method, err, answer.Error)
		}
		return answer.Result
	}
}

// What the real program does on a bad file: it ends, its sessions end, and its pid file is gone.
func TestBadFileEndsEverything(t *testing.T) {
	for name, bad := range map[string]string{"syntax": "POOL half\n", "no VM left": "# empty\n"} {
		t.Run(name, func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t)
			conf := write(t, filepath.Join(dir, "xvp.conf"), configuration(t, port, "vm-1", "right"))
			pidfile := filepath.Join(dir, "pid")
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self, "-n", "-c", conf, "-p", pidfile)
			cmd.Env = append(os.Environ(), beXVP+"=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, out, "msg=listening")
			conn := connect(t, port)
			if _, err := rfb.Handshake(t.Context(), conn, orchestrator.NewSecret("right")); err != nil {
				t.Fatal(err)
			}
			write(t, conf, bad)
			if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("the session goes on: %d bytes", n)
			}
			_, _ = io.Copy(io.Discard, out)
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it ended by %v, want 1", err)
			}
			if _, err := os.Stat(pidfile); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("pid file: %v", err)
			}
		})
	}
}

// waitFor reads until the text was seen.
func waitFor(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	for b := make([]byte, 1); !bytes.Contains(seen, []byte(text)); seen = append(seen, b[0]) {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("waiting for %q, read %q: %v", text, seen, err)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-z"}, {"-n", "more"}} {
		if code := Main(args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
