package testserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"slipway/internal/testenv"
)

// rabbitmqServer is the start script itself. The program of the same name in /usr/sbin is Debian's wrapper, which would change to the
// account rabbitmq and to the machine's own directories.
const rabbitmqServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// EnoughMemory is how many bytes a broker may use before it raises its alarm, unless Memory says otherwise.
const EnoughMemory = 512_000_000

// Broker is a private RabbitMQ node with its own epmd. Its methods that act on the server are for one goroutine at a time.
type Broker struct {
	dir, password              string // of the account guest: one that a search for secrets can find
	plainPort, tlsPort         int
	distributionPort, epmdPort int
	serverProgram, epmdProgram string
	erlCall                    string
	guard                      *guard
	epmd                       *process
	server                     *process   // nil while stopped
	calls                      sync.Mutex // erl_call joins the node under one name
	count                      atomic.Int64
}

func startRabbitMQ(tb testing.TB) *Broker {
	tb.Helper()
	testenv.Need(tb, "rabbitmq-server")
	b := &Broker{serverProgram: rabbitmqServer, epmdProgram: testenv.Need(tb, "epmd"), erlCall: testenv.Need(tb, "erl_call")}
	err := b.create()
	if err == nil {
		err = b.start()
	}
	if err != nil {
		tb.Fatalf("start RabbitMQ: %v", errors.Join(err, b.remove()))
	}
	return b
}

func (b *Broker) create() error {
	var err error
	if b.dir, err = os.MkdirTemp("", "slipway-rabbitmq-"); err != nil {
		return err
	}
	if b.guard, err = startGuard(b.dir); err != nil {
		return err
	}
	b.password = rand.Text()
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	b.plainPort, b.tlsPort, b.distributionPort, b.epmdPort = ports[0], ports[1], ports[2], ports[3]
	for _, name := range []string{"mnesia", "log", "home"} {
		if err := os.Mkdir(filepath.Join(b.dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := certificates(b.dir); err != nil {
		return err
	}
	config := fmt.Sprintf(`listeners.tcp.1 = 127.0.0.1:%d
listeners.ssl.1 = 127.0.0.1:%d
ssl_options.cacertfile = %[3]s/ca.pem
ssl_options.certfile = %[3]s/cert.pem
ssl_options.keyfile = %[3]s/key.pem
ssl_options.verify = verify_none
vm_memory_high_watermark.absolute = %[4]d
disk_free_limit.absolute = 50MB
log.file.level = info
default_pass = %[5]s
`, b.plainPort, b.tlsPort, b.dir, EnoughMemory, b.password)
	for name, text := range map[string]string{
		"rabbitmq.conf":       config,
		"enabled_plugins":     "[].\n",
		"home/.erlang.cookie": rand.Text(),
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o400); err != nil {
			return err
		}
	}
	b.epmd, err = start(b.command(b.epmdProgram, "-address", "127.0.0.1", "-port", strconv.Itoa(b.epmdPort)), filepath.Join(b.dir, "epmd.out"))
	return err
}

func (b *Broker) node() string { return "slipway" + strconv.Itoa(b.plainPort) + "@localhost" }

// command gives a program the environment of this node and nothing of ours.
func (b *Broker) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = b.dir
	in := func(name string) string { return filepath.Join(b.dir, name) }
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C.UTF-8",
		"HOME=" + in("home"),
		"ERL_EPMD_PORT=" + strconv.Itoa(b.epmdPort),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_HOME_DIR=" + b.dir,
		"RABBITMQ_NODENAME=" + b.node(),
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT=" + strconv.Itoa(b.plainPort),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(b.distributionPort),
		"RABBITMQ_MNESIA_BASE=" + in("mnesia"),
		"RABBITMQ_LOG_BASE=" + in("log"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("enabled_plugins"),
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq"),
		"RABBITMQ_PID_FILE=" + in("pid"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the Erlang machine instead of waiting for it, so that signals reach the node
		"RABBITMQ_SERVER_START_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		// Schedulers that spin while idle would take the machine from the tests.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
	}
	return cmd
}

func (b *Broker) start() error {
	server, err := start(b.command(b.serverProgram), filepath.Join(b.dir, "out"))
	if err != nil {
		return err
	}
	b.server = server
	if err := b.guard.watch(server, b.epmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	err = poll(ctx, func() error {
		if server.exited() {
			return fatal{errors.New("it ended by itself")}
		}
		conn, err := amqp.Dial(b.url("/"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, server.tail())
	}
	return nil
}

func (b *Broker) url(vhost string) string { return b.address("amqp", b.plainPort, vhost) }

func (b *Broker) address(scheme string, port int, vhost string) string {
	return fmt.Sprintf("%s://guest:%s@127.0.0.1:%d/%s", scheme, b.password, port, url.PathEscape(vhost))
}

// URL creates a fresh virtual host and returns its address. It goes with the broker.
func (b *Broker) URL(tb testing.TB) string {
	tb.Helper()
	return b.url(b.vhost(tb))
}

// TLSURL is URL over TLS, with a server certificate for 127.0.0.1 that the authority in [Broker.CAFile] signed.
func (b *Broker) TLSURL(tb testing.TB) string {
	tb.Helper()
	return b.address("amqps", b.tlsPort, b.vhost(tb))
}

// OverTLS is one of the broker's addresses as its TLS listener has it.
func (b *Broker) OverTLS(tb testing.TB, address string) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	u.Scheme, u.Host = "amqps", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.tlsPort))
	return u.String()
}

// CAFile is the path of the authority's certificate, PEM.
func (b *Broker) CAFile() string { return filepath.Join(b.dir, "ca.pem") }

func (b *Broker) vhost(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test-%d", b.count.Add(1))
	b.erlang(tb, fmt.Sprintf(`ok = rabbit_vhost:add(<<"%[1]s">>, <<"guest">>),
ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"%[1]s">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).
`, name))
	return name
}

// Account makes an account that may do in a URL's virtual host what the three patterns say, and returns the URL with it. The name gets a
// number, for accounts are the broker's and not the virtual host's.
func (b *Broker) Account(tb testing.TB, address, name, configure, write, read string) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	name = fmt.Sprintf("%s-%d", name, b.count.Add(1))
	password := rand.Text()
	bin := func(s string) string { return `<<"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `">>` }
	b.erlang(tb, fmt.Sprintf(`ok = rabbit_auth_backend_internal:add_user(%[1]s, %[2]s, <<"test">>),
ok = rabbit_auth_backend_internal:set_permissions(%[1]s, %[3]s, %[4]s, %[5]s, %[6]s, <<"test">>).
`, bin(name), bin(password), bin(strings.TrimPrefix(u.Path, "/")), bin(configure), bin(write), bin(read)))
	u.User = url.UserPassword(name, password)
	return u.String()
}

// Set gives one of the broker's settings (of the Erlang application rabbit) another number until the test ends. Connections and channels that
// are made from now on go by it. The broker may be the shared one when no other test of the package runs at the same time.
func (b *Broker) Set(tb testing.TB, name string, number int64) {
	tb.Helper()
	b.erlang(tb, fmt.Sprintf(`{ok, V} = application:get_env(rabbit, %[1]s),
ok = application:set_env(rabbit, before_%[1]s, V),
ok = application:set_env(rabbit, %[1]s, %[2]d).
`, name, number))
	tb.Cleanup(func() {
		b.erlang(tb, fmt.Sprintf(`{ok, V} = application:get_env(rabbit, before_%[1]s),
ok = application:set_env(rabbit, %[1]s, V).
`, name))
	})
}

// Memory sets how many bytes the broker may use before it raises its memory alarm and takes no more messages; 0 raises it at once. The end
// of the test sets it back. As with Set, the broker may be the shared one.
func (b *Broker) Memory(tb testing.TB, bytes int64) {
	tb.Helper()
	set := func(bytes int64) {
		b.erlang(tb, fmt.Sprintf("ok = vm_memory_monitor:set_vm_memory_high_watermark({absolute, %d}).\n", bytes))
	}
	set(bytes)
	tb.Cleanup(func() { set(EnoughMemory) })
}

// erlang runs expressions that end in ok on the node. rabbitmqctl would boot an Erlang machine for each command, two seconds of it.
func (b *Broker) erlang(tb testing.TB, text string) {
	tb.Helper()
	b.calls.Lock()
	defer b.calls.Unlock()
	cmd := b.command(b.erlCall, "-sname", b.node(), "-timeout", "30", "-e")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "{ok, ok}" {
		tb.Fatalf("erl_call: %v: %s", err, out)
	}
}

// PID is the server's process id, 0 while it is stopped.
func (b *Broker) PID() int {
	if b.server == nil {
		return 0
	}
	return b.server.pid()
}

// Kill9 ends the broker with SIGKILL; epmd lives on, as it does when a node dies.
func (b *Broker) Kill9(tb testing.TB) {
	tb.Helper()
	b.needRunning(tb)
	b.server.kill9()
	b.server = nil
}

// Stop is an orderly shutdown.
func (b *Broker) Stop(tb testing.TB) {
	tb.Helper()
	b.needRunning(tb)
	err := b.server.stop(syscall.SIGTERM)
	b.server = nil
	if err != nil {
		tb.Fatalf("stop RabbitMQ: %v", err)
	}
}

// Start runs a broker again that was stopped or killed, on the same ports and data, and returns when it answers.
func (b *Broker) Start(tb testing.TB) {
	tb.Helper()
	if b.server != nil {
		tb.Fatal("RabbitMQ runs already")
	}
	if err := b.start(); err != nil {
		tb.Fatalf("start RabbitMQ again: %v", err)
	}
}

// Restart is Stop and Start.
func (b *Broker) Restart(tb testing.TB) {
	tb.Helper()
	b.Stop(tb)
	b.Start(tb)
}

func (b *Broker) needRunning(tb testing.TB) {
	tb.Helper()
	if b.server == nil {
		tb.Fatal("RabbitMQ does not run")
	}
}

func (b *Broker) remove() error {
	var errs []error
	if b.server != nil {
		b.server.kill9() // the data goes anyway
		b.server = nil
	}
	if b.epmd != nil {
		errs = append(errs, b.epmd.stop(syscall.SIGTERM))
		b.epmd = nil
	}
	if b.guard != nil {
		errs = append(errs, b.guard.dismiss())
		b.guard = nil
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
		b.dir = ""
	}
	return errors.Join(errs...)
}
