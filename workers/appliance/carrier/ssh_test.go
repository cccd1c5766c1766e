package carrier_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
)

// failure is a far side that does not do as it should.
type failure struct {
	word string
	kind orchestrator.Kind
	says string
}

var failures = []failure{
	{"falls over", orchestrator.Unknown, "panic: [31moops"},
	{"is not there", orchestrator.Permanent, "command not found"},
	{"is killed", orchestrator.Unknown, "no answer"},
	{"talks", orchestrator.Unknown, "no answer"},
	{"invents", orchestrator.Unknown, "splendid"},
	{"shouts", orchestrator.Unknown, "no answer"},
}

func (f failure) judge(t *testing.T, answer apply.Answer, err error) {
	t.Helper()
	if err == nil || orchestrator.KindOf(err) != f.kind || !strings.Contains(err.Error(), f.says) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("answer %+v, %s error %v; want %s saying %q", answer, orchestrator.KindOf(err), err, f.kind, f.says)
	}
}

// server is a real sshd on loopback with one key in authorized_keys, whose command is the far side.
type server struct {
	address string
	dir     string // of the far side
	hostKey string
	config  carrier.SSHConfig
}

func startServer(t *testing.T, word string) server {
	t.Helper()
	sshd := testenv.Need(t, "sshd")
	home := t.TempDir()
	s := server{dir: t.TempDir()}
	hostFile, hostKey := newKey(t, home, "host")
	clientFile, clientKey := newKey(t, home, "client")
	s.hostKey = hostKey

	argv := farArgv(t, word, s.dir)
	for i := range argv {
		argv[i] = "'" + argv[i] + "'" // for the login shell that sshd starts; our own side sends a constant
	}
	keys := filepath.Join(home, "authorized_keys")
	port := freePort(t)
	s.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	settings := filepath.Join(home, "sshd_config")
	for path, text := range map[string]string{
		keys: fmt.Sprintf("restrict,command=\"%s\" %s\n", strings.Join(argv, " "), clientKey),
		settings: fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin forced-commands-only\nPrintMotd no\n", port, hostFile, keys),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := []string{sshd, "-D", "-e", "-f", settings}
	if os.Geteuid() == 0 { // then sshd wants /run/sshd, which gets a /run of its own
		command = append([]string{testenv.Need(t, "unshare"), "-m", "/bin/sh", "-c", `mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"`, "sh"}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = log.Close()
		if pid := s.left(); pid > 1 { // closing an SSH session ends no process
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("sshd: %s", text)
		}
	})
	testnet.Until(t, 10*time.Second, "sshd to listen", func() bool {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.config = carrier.SSHConfig{Address: s.address, User: me.Username, Key: secret(t, clientFile), HostKey: hostKey, Timeout: 30 * time.Second}
	return s
}

// left is the process that the far side leaves behind, 0 while there is none.
func (s server) left() int {
	text, err := os.ReadFile(filepath.Join(s.dir, "left"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(string(text))
	return pid
}

func newKey(t *testing.T, dir, name string) (file, public string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func secret(t *testing.T, file string) orchestrator.Secret {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return orchestrator.NewSecret(string(text))
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func dial(t *testing.T, cfg carrier.SSHConfig) *carrier.SSH {
	t.Helper()
	c, err := carrier.NewSSH(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSSH(t *testing.T) {
	s := startServer(t, "agent")
	exchanges(t, dial(t, s.config), s.dir)
	if asked, err := os.ReadFile(filepath.Join(s.dir, "asked")); err != nil || string(asked) != carrier.Command {
		t.Errorf("the command sent was %q, %v", asked, err)
	}
}

func TestSSHFarSideFails(t *testing.T) {
	for _, tc := range failures {
		t.Run(tc.word, func(t *testing.T) {
			s := startServer(t, tc.word)
			answer, err := dial(t, s.config).Apply(t.Context(), request("x\n"))
			tc.judge(t, answer, err)
		})
	}
}

func TestSSHCleansWordsForTerminals(t *testing.T) {
	s := startServer(t, "escapes")
	answer, err := dial(t, s.config).Apply(t.Context(), request("x\n"))
	if err != nil || answer.Code != apply.Broken || answer.Message != "a[2Jb c" {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestSSHDoesNotWaitForADaemonLeftBehind(t *testing.T) {
	s := startServer(t, "leaves a child")
	begin := time.Now()
	answer, err := dial(t, s.config).Apply(t.Context(), request("x\n"))
	if err != nil || answer.Code != apply.Applied || time.Since(begin) > 10*time.Second {
		t.Errorf("%+v, %v after %s", answer, err, time.Since(begin))
	}
	testnet.Until(t, 5*time.Second, "the child's number", func() bool { return s.left() > 1 })
}

func TestSSHTrustsNobodyElse(t *testing.T) {
	s := startServer(t, "agent")
	_, stranger := newKey(t, t.TempDir(), "stranger")
	strangerFile, _ := newKey(t, t.TempDir(), "stranger")
	for name, tc := range map[string]struct {
		edit func(*carrier.SSHConfig)
		says string
	}{
		"another host key":   {func(c *carrier.SSHConfig) { c.HostKey = stranger }, "pinned"},
		"another client key": {func(c *carrier.SSHConfig) { c.Key = secret(t, strangerFile) }, "unable to authenticate"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config
			tc.edit(&cfg)
			_, err := dial(t, cfg).Apply(t.Context(), request("x\n"))
			failure{kind: orchestrator.Permanent, says: tc.says}.judge(t, apply.Answer{}, err)
			if _, err := os.Stat(filepath.Join(s.dir, "asked")); err == nil {
				t.Error("the far side was asked")
			}
		})
	}
	t.Run("one of two pinned keys", func(t *testing.T) {
		cfg := s.config
		cfg.HostKey = stranger + "\n" + s.hostKey + "\n"
		if answer, err := dial(t, cfg).Apply(t.Context(), request("x\n")); err != nil {
			t.Errorf("%+v, %v", answer, err)
		}
	})
}

func TestNewSSHRefuses(t *testing.T) {
	file, key := newKey(t, t.TempDir(), "k")
	good := carrier.SSHConfig{Address: "192.0.2.1:22", User: "slipway", Key: secret(t, file), HostKey: key}
	if _, err := carrier.NewSSH(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*carrier.SSHConfig){
		"no host key":   func(c *carrier.SSHConfig) { c.HostKey = "" },
		"blank":         func(c *carrier.SSHConfig) { c.HostKey = " \n" },
		"no public key": func(c *carrier.SSHConfig) { c.HostKey = "ssh-ed25519 AAAA" },
		"key and junk":  func(c *carrier.SSHConfig) { c.HostKey += "\njunk" },
		"no port":       func(c *carrier.SSHConfig) { c.Address = "192.0.2.1" },
		"no user":       func(c *carrier.SSHConfig) { c.User = "" },
		"no key":        func(c *carrier.SSHConfig) { c.Key = orchestrator.Secret{} },
		"public key":    func(c *carrier.SSHConfig) { c.Key = orchestrator.NewSecret(key) },
	} {
		cfg := good
		edit(&cfg)
		if _, err := carrier.NewSSH(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestSSHNobodyThere: nothing has happened, so the kind is transient.
func TestSSHNobodyThere(t *testing.T) {
	mute, err := net.Listen("tcp4", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	home := t.TempDir()
	file, key := newKey(t, home, "k")
	for name, address := range map[string]string{"closed port": net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t))), "mute": mute.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, carrier.SSHConfig{Address: address, User: "x", Key: secret(t, file), HostKey: key, Handshake: 200 * time.Millisecond})
			_, err := c.Apply(t.Context(), request("x\n"))
			failure{kind: orchestrator.Transient, says: address}.judge(t, apply.Answer{}, err)
		})
	}
}

// TestSSHLosesTheFarSide: the agent has the request, so nobody knows what has become of it.
func TestSSHLosesTheFarSide(t *testing.T) {
	for name, harm := range map[string]func(*line, context.CancelFunc){
		"cut":      func(l *line, _ context.CancelFunc) { l.cut() },
		"frozen":   func(l *line, _ context.CancelFunc) { l.freeze() },
		"gives up": func(_ *line, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, "waits")
			l := newLine(t, s.address)
			cfg := s.config
			cfg.Address, cfg.Keepalive = l.address, 100*time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			c := dial(t, cfg)
			go func() {
				_, err := c.Apply(ctx, request("x\n"))
				failed <- err
			}()
			testnet.Until(t, 10*time.Second, "the request to arrive", func() bool { return s.left() > 1 })
			harm(l, cancel)
			select {
			case err := <-failed:
				failure{kind: orchestrator.Unknown}.judge(t, apply.Answer{}, err)
			case <-time.After(10 * time.Second):
				t.Fatal("still waiting")
			}
		})
	}
}

// line is a wire that can be cut or frozen.
type line struct {
	address string
	frozen  atomic.Bool
	mu      sync.Mutex
	conns   []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{address: listener.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp4", to)
		if err != nil {
			_ = near.Close()
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, near, far)
		l.mu.Unlock()
		wg.Go(func() { l.copy(near, far) })
		wg.Go(func() { l.copy(far, near) })
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		wg.Wait()
	})
	return l
}

// copy carries bytes; once frozen it swallows them.
func (l *line) copy(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			l.cut()
			return
		}
		if l.frozen.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			l.cut()
			return
		}
	}
}

func (l *line) freeze() { l.frozen.Store(true) }

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
}
