package carrier_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testnet"
	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
	"slipway/workers/queue/amqp"
)

const (
	brokerVar = "SLIPWAY_TEST_FAR_BROKER"
	keyVar    = "SLIPWAY_TEST_FAR_KEY" // the public one that the agent knows
	agentName = "dhcp2"
)

func brokerConfig(url string, log io.Writer) amqp.Config {
	return amqp.Config{
		URL: orchestrator.NewSecret(url), Log: slog.New(slog.NewTextHandler(log, nil)), Keepalive: 100 * time.Millisecond,
		BackoffMin: 20 * time.Millisecond, BackoffMax: 300 * time.Millisecond,
	}
}

// listen is an agent in a process of its own, until SIGTERM.
func listen(dir string) error {
	a, err := newAgent(dir)
	if err != nil {
		return err
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(os.Getenv(keyVar)))
	if err != nil {
		return err
	}
	key := parsed.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	r, err := amqp.NewResponder(brokerConfig(os.Getenv(brokerVar), os.Stderr), amqp.AgentQueue(agentName))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err = carrier.Listen(ctx, r, agentName, 10*time.Second, func(ctx context.Context, e apply.Envelope) []byte {
		return a.Open(ctx, e, []ed25519.PublicKey{key}, amqp.MaxBody)
	})
	return errors.Join(err, r.Close())
}

// listener is such a process.
type listener struct {
	t   *testing.T
	cmd *exec.Cmd
	end sync.Once
}

func startListener(t *testing.T, url, key, dir string) *listener {
	t.Helper()
	argv := farArgv(t, "listens", dir)
	argv = append([]string{argv[0], brokerVar + "=" + url, keyVar + "=" + key}, argv[1:]...)
	l := &listener{t: t, cmd: exec.Command(argv[0], argv[1:]...)}
	l.cmd.Stderr = t.Output()
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.kill)
	return l
}

func (l *listener) kill() {
	l.end.Do(func() {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
	})
}

// byQueue is a carrier over a fresh virtual host, and what its agent needs.
func byQueue(t *testing.T, name string) (c *carrier.Queue, url, key string) {
	t.Helper()
	url = testserver.RabbitMQ(t)
	file, key := newKey(t, t.TempDir(), "k")
	return overQueue(t, url, name, file), url, key
}

func overQueue(t *testing.T, url, name, keyFile string) *carrier.Queue {
	t.Helper()
	r, err := amqp.NewRequester(brokerConfig(url, t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	c, err := carrier.NewQueue(carrier.QueueConfig{Broker: r, Agent: name, Key: secret(t, keyFile), Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func reachable(t *testing.T, c *carrier.Queue) {
	t.Helper()
	testnet.Until(t, 20*time.Second, "the agent to listen", func() bool {
		_, err := c.Apply(t.Context(), apply.Request{Unit: "dhcp", ReadOnly: true})
		return err == nil
	})
}

func TestQueue(t *testing.T) {
	c, url, key := byQueue(t, agentName)
	begin := time.Now()
	_, err := c.Apply(t.Context(), request("x\n"))
	failure{kind: orchestrator.Transient, says: "nobody listens"}.judge(t, apply.Answer{}, err)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("an agent that is not there took %s", took)
	}
	dir := t.TempDir()
	startListener(t, url, key, dir)
	reachable(t, c)
	exchanges(t, c, dir)
}

// Killed in the middle, the agent answers nothing; the one that is started next puts the apply right, and applies once what is asked again.
func TestQueueAgentIsKilledInAnApply(t *testing.T) {
	c, url, key := byQueue(t, agentName)
	dir := t.TempDir()
	l := startListener(t, url, key, dir)
	reachable(t, c)
	hold, reloads := filepath.Join(dir, "hold"), filepath.Join(dir, "reloads")
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := c.Apply(t.Context(), request("x\n"))
		failed <- err
	}()
	testnet.Until(t, 20*time.Second, "the apply to be in its reload", func() bool { _, err := os.Stat(reloads); return err == nil })
	l.kill()
	failure{kind: orchestrator.Unknown}.judge(t, apply.Answer{}, <-failed)
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	startListener(t, url, key, dir)
	reachable(t, c)
	for _, want := range []apply.Code{apply.Unchanged, apply.Unchanged} { // the journal was finished first
		answer, err := c.Apply(t.Context(), request("x\n"))
		if err != nil || answer.Code != want || answer.Generation != 1 || answer.SHA256 != request("x\n").SHA256 {
			t.Errorf("%+v, %v", answer, err)
		}
	}
}

// An agent that is told to stop ends the apply that it has in hand, and answers.
func TestQueueAgentIsStoppedInAnApply(t *testing.T) {
	c, url, key := byQueue(t, agentName)
	dir := t.TempDir()
	l := startListener(t, url, key, dir)
	reachable(t, c)
	hold, reloads := filepath.Join(dir, "hold"), filepath.Join(dir, "reloads")
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		answer apply.Answer
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		answer, err := c.Apply(t.Context(), request("x\n"))
		done <- outcome{answer, err}
	}()
	testnet.Until(t, 20*time.Second, "the apply to be in its reload", func() bool { _, err := os.Stat(reloads); return err == nil })
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || got.answer.Code != apply.Applied {
		t.Errorf("%+v, %v", got.answer, got.err)
	}
	l.end.Do(func() {
		if err := l.cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
}

// Whoever may publish to the agent is still nobody without a key that it knows, and what was signed for one agent is nothing to another.
func TestQueueAgentTrustsASignatureOnly(t *testing.T) {
	c, url, key := byQueue(t, agentName)
	dir := t.TempDir()
	startListener(t, url, key, dir)
	reachable(t, c)
	strangerFile, _ := newKey(t, t.TempDir(), "stranger")
	stranger := overQueue(t, url, agentName, strangerFile)
	for _, req := range []apply.Request{request("x\n"), {Unit: "dhcp", ReadOnly: true}} {
		if answer, err := stranger.Apply(t.Context(), req); err != nil || answer.Code != apply.Refused || !strings.Contains(answer.Message, "not signed") || answer.Live != nil {
			t.Errorf("%+v, %v", answer, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "hosts.conf")); err == nil {
		t.Error("a stranger's request was applied")
	}
}

func TestEnvelope(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good, err := apply.Seal("dhcp2", "id", request("x\n"), private)
	if err != nil {
		t.Fatal(err)
	}
	if err := good.Verify([]ed25519.PublicKey{public}); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*apply.Envelope){
		"for another agent": func(e *apply.Envelope) { e.Agent = "fw1" },
		"another exchange":  func(e *apply.Envelope) { e.ID = "id2" },
		"another body":      func(e *apply.Envelope) { e.Body = append([]byte{}, e.Body...); e.Body[len(e.Body)-1]++ },
		"names shifted":     func(e *apply.Envelope) { e.Agent, e.ID = "dhcp2i", "d" },
		"no signature":      func(e *apply.Envelope) { e.Signature = nil },
	} {
		e := good
		edit(&e)
		if err := e.Verify([]ed25519.PublicKey{public}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := good.Verify(nil); err == nil {
		t.Error("taken without a key")
	}
}

// A request that unpacks to more than an agent takes is refused, however small it came.
func TestQueueAgentBoundsWhatItUnpacks(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e, err := apply.Seal(agentName, "id", request(strings.Repeat("x", agent.MaxRequest)), private)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Body) > 1<<20 {
		t.Fatalf("%d bytes", len(e.Body))
	}
	text, err := apply.Unpack(a.Open(t.Context(), e, []ed25519.PublicKey{public}, amqp.MaxBody))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(text)
	if err != nil || !strings.Contains(string(answer), `"refused"`) || !strings.Contains(string(answer), "more than") {
		t.Errorf("%s, %v", answer, err)
	}
}

func TestNewQueueRefuses(t *testing.T) {
	file, public := newKey(t, t.TempDir(), "k")
	good := carrier.QueueConfig{Agent: "dhcp2", Key: secret(t, file)}
	if _, err := carrier.NewQueue(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*carrier.QueueConfig){
		"no agent":   func(c *carrier.QueueConfig) { c.Agent = "" },
		"no key":     func(c *carrier.QueueConfig) { c.Key = orchestrator.Secret{} },
		"public key": func(c *carrier.QueueConfig) { c.Key = orchestrator.NewSecret(public) },
	} {
		cfg := good
		edit(&cfg)
		if _, err := carrier.NewQueue(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
