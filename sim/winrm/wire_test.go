package winrm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	masterzen "github.com/masterzen/winrm"
	"go.uber.org/goleak"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/sim/winrm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const user, password = "slipway", "p4ss \"word' <&>"

func start(t *testing.T, tls bool, change func(*winrm.Config)) (*winrm.Server, string) {
	t.Helper()
	config := winrm.Config{User: user, Password: orchestrator.NewSecret(password), AllowBasic: true, ChunkSize: 1000}
	if tls {
		certificate, _, err := winrm.SelfSigned("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		config.Certificate = &certificate
	}
	if change != nil {
		change(&config)
	}
	s, err := winrm.New(config)
	if err != nil {
		t.Fatal(err)
	}
	address, err := s.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, address
}

// The ways in, and whether messages are sealed by them.
var ways = []struct {
	name      string
	tls       bool
	python    string
	masterzen func() masterzen.Transporter // nil is Basic
	change    func(*winrm.Config)
	sealed    bool
}{
	{"basic over https", true, "basic", nil, nil, false},
	{"basic in the clear", false, "basic", nil, func(c *winrm.Config) { c.AllowUnencrypted = true }, false},
	{"ntlm over https", true, "ntlm", func() masterzen.Transporter { return &masterzen.ClientNTLM{} }, nil, false},
	{"ntlm sealed over http", false, "ntlm", sealed, nil, true},
	{"ntlm in the clear", false, "", func() masterzen.Transporter { return &masterzen.ClientNTLM{} }, func(c *winrm.Config) { c.AllowUnencrypted = true }, false},
}

func sealed() masterzen.Transporter {
	e, err := masterzen.NewEncryption("ntlm")
	if err != nil {
		panic(err) // "ntlm" is what it knows
	}
	return e
}

func goClient(t *testing.T, address string, tls bool, transport func() masterzen.Transporter, password string) *masterzen.Client {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	parameters := *masterzen.NewParameters("PT1S", "en-US", 153600)
	parameters.TransportDecorator = transport
	c, err := masterzen.NewClientWithParameters(masterzen.NewEndpoint(host, port, tls, true, nil, nil, nil, 20*time.Second), user, password, &parameters)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMasterzenClient(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s, address := start(t, way.tls, way.change)
			c := goClient(t, address, way.tls, way.masterzen, password)
			run := func(line, stdin string) string {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				feed := c.RunCmdWithContext
				if stdin != "" {
					feed = func(ctx context.Context, line string) (string, string, int, error) {
						return c.RunWithContextWithString(ctx, line, stdin)
					}
				}
				out, diag, code, err := feed(ctx, line)
				if err != nil {
					t.Fatalf("%.60s: %v", line, err)
				}
				return fmt.Sprintf("%s|%s|%d", out, diag, code)
			}
			for _, row := range []struct{ name, line, stdin, want string }{
				{"markup", `echo <a> & "b" 'c' ü`, "", "<a> & \"b\" 'c' ü\r\n||0"},
				{"unknown command", "nonsense", "", "|'nonsense' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n|1"},
				{"exit code", "exit 42", "", "||42"},
				{"stdin", "more", strings.Repeat("0123456789", 500), strings.Repeat("0123456789", 500) + "||0"},
				{"powershell", masterzen.Powershell("Write-Output ('y' * 5000); [Console]::Error.WriteLine('careful'); exit 7"), "", strings.Repeat("y", 5000) + "\r\n|careful\r\n|7"},
				{"longest line", "echo " + strings.Repeat("x", 8186), "", strings.Repeat("x", 8186) + "\r\n||0"},
				{"too long a line", "echo " + strings.Repeat("x", 8187), "", "|The command line is too long.\r\n|1"},
				{"longer than the operation timeout", "timeout /t 1.3", "", "||0"},
			} {
				if row.stdin != "" && way.sealed {
					continue // this client then has two messages under way at a time, and mixes up its seals
				}
				if diff := cmp.Diff(row.want, run(row.line, row.stdin)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", row.name, diff)
				}
			}
			st := s.Stats()
			if st.OpenShells != 0 || st.TimedOut == 0 || (st.Encrypted > 0) != way.sealed {
				t.Errorf("%+v", st)
			}
			if _, err := goClient(t, address, way.tls, way.masterzen, "wrong").CreateShell(); err == nil || !strings.Contains(err.Error(), "401") {
				t.Errorf("with a wrong password: %v", err)
			}
		})
	}
}

const legacyProvider = `openssl_conf = init
[init]
providers = providers
[providers]
default = active
legacy = active
[active]
activate = 1
`

func TestPythonClient(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3")
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import winrm").CombinedOutput(); err != nil {
		testenv.Need(t, "python3-winrm") // names what is missing
		t.Fatalf("%v: %s", err, out)
	}
	// NTLM needs MD4, which OpenSSL 3 keeps in its legacy provider.
	openssl := filepath.Join(t.TempDir(), "openssl.cnf")
	if err := os.WriteFile(openssl, []byte(legacyProvider), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(t *testing.T, endpoint, transport, password string) map[string]any {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, python, "-W", "ignore", "testdata/pywinrm.py", endpoint, transport, user)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "OPENSSL_CONF=" + openssl} // no proxy, no CA bundle of the machine
		cmd.Stdin = strings.NewReader(password + "\n")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		var out map[string]any
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return out
	}
	for _, way := range ways {
		if way.python == "" {
			continue // pywinrm seals whenever it can
		}
		t.Run(way.name, func(t *testing.T) {
			s, address := start(t, way.tls, way.change)
			endpoint := "http://" + address + "/wsman"
			if way.tls {
				endpoint = "https://" + address + "/wsman"
			}
			want := map[string]any{
				"echo":       []any{"<a> & 'b' ümlaut\r\n", "", 0.0},
				"unknown":    []any{"", "'nonsense' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", 1.0},
				"slow":       []any{"", "", 0.0},
				"long":       []any{"", "The command line is too long.\r\n", 1.0},
				"powershell": []any{100002.0, "careful\r\n", 7.0},
			}
			if diff := cmp.Diff(want, ask(t, endpoint, way.python, password)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			st := s.Stats()
			if st.OpenShells != 0 || st.TimedOut == 0 || (st.Encrypted > 0) != way.sealed {
				t.Errorf("%+v", st)
			}
			if bound := st.Bindings > 0; bound != (way.tls && way.python == "ntlm") {
				t.Errorf("%d logins were bound to the channel", st.Bindings)
			}
			if out := ask(t, endpoint, way.python, "wrong"); out["refused"] == nil {
				t.Errorf("with a wrong password: %v", out)
			}
		})
	}
}

func TestWhatWindowsRefuses(t *testing.T) {
	t.Run("in the clear", func(t *testing.T) {
		_, address := start(t, false, nil)
		if _, err := goClient(t, address, false, nil, password).CreateShell(); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("basic: %v", err)
		}
		if _, err := goClient(t, address, false, ways[4].masterzen, password).CreateShell(); err == nil || !strings.Contains(err.Error(), "500") {
			t.Errorf("ntlm without message encryption: %v", err)
		}
	})
	t.Run("too many shells", func(t *testing.T) {
		s, address := start(t, true, func(c *winrm.Config) { c.MaxShells = 2 })
		c := goClient(t, address, true, nil, password)
		var shells []*masterzen.Shell
		for range 2 {
			shell, err := c.CreateShell()
			if err != nil {
				t.Fatal(err)
			}
			shells = append(shells, shell)
		}
		// This client takes a fault for a shell without an id; the fault shows when it is used.
		_, err := c.CreateShell()
		if st := s.Stats(); st.OpenShells != 2 {
			t.Errorf("a third shell: %v, %+v", err, st)
		}
		if err := shells[0].Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateShell(); err != nil {
			t.Errorf("after one was closed: %v", err)
		}
		gone := new(masterzen.ExecuteCommandError)
		if _, err := shells[0].ExecuteWithContext(t.Context(), "echo x"); !errors.As(err, &gone) || !strings.Contains(gone.Body, `Code="2150858843"`) {
			t.Errorf("a shell that is gone: %v", err)
		}
	})
}
