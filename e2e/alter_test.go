package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	cryptossh "golang.org/x/crypto/ssh"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
	"slipway/workers/console/rfb"
	"slipway/workers/vault"
)

// used is a site with one machine in use: a real guest behind the real firewall.
type used struct {
	*site
	g       *realGuests
	ctx     context.Context
	w       *worker
	machine api.Machine
	guest   *testguest.Guest
	public  string
}

// verb runs an operators' verb to its end, while guests boot and stop as it goes.
func (u *used) verb(args ...string) (out string, code int) {
	u.t.Helper()
	cmd := exec.CommandContext(u.ctx, u.program, append([]string{"--config", filepath.Join(u.dir, "worker.yaml")}, args...)...)
	var text []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		text, _ = cmd.CombinedOutput() // its exit code is looked at
	}()
	u.g.follow(u.ctx, done)
	return string(text), cmd.ProcessState.ExitCode()
}

// must is a verb that has to do what it says, to the end of its run.
func (u *used) must(args ...string) string {
	u.t.Helper()
	out, code := u.verb(append(args, "--wait")...)
	if code != 0 {
		u.t.Fatalf("slipway %s ended with %d:\n%s\n%s", strings.Join(args, " "), code, out, u.cli("worker", "show", "vm-0001"))
	}
	u.look()
	return out
}

// look reads the machine anew.
func (u *used) look() {
	u.t.Helper()
	u.machine = api.Machine{}
	if err := json.Unmarshal([]byte(u.cli("worker", "-o", "json", "show", "vm-0001")), &u.machine); err != nil {
		u.t.Fatal(err)
	}
	u.guest = u.g.guests[u.machine.Placement.MAC]
}

var counters = regexp.MustCompile(`\[[0-9]+:[0-9]+\]`)

// rules are what the kernel has, without comments and counters.
func (u *used) rules() string {
	var b strings.Builder
	for line := range strings.Lines(u.fw.MustRun("iptables-save")) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(counters.ReplaceAllString(line, ""))
		}
	}
	return b.String()
}

// enters tells whether a customer's key opens the machine.
func (u *used) enters(key string) error {
	u.t.Helper()
	signer, err := cryptossh.ParsePrivateKey([]byte(key))
	if err != nil {
		u.t.Fatal(err)
	}
	var conn net.Conn
	u.customer.Do(func() { conn, err = net.DialTimeout("tcp4", net.JoinHostPort(u.public, "22"), 5*time.Second) })
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, _, _, err := cryptossh.NewClientConn(conn, u.public, &cryptossh.ClientConfig{
		User: "root", Auth: []cryptossh.AuthMethod{cryptossh.PublicKeys(signer)}, HostKeyCallback: cryptossh.InsecureIgnoreHostKey(),
	})
	if err == nil {
		_ = c.Close()
	}
	return err
}

// password is the console's, as it is sealed in the store at this moment.
func (u *used) password() orchestrator.Secret {
	u.t.Helper()
	key, err := vault.New(secretOf(u.vaultKey))
	if err != nil {
		u.t.Fatal(err)
	}
	for _, m := range u.machines() {
		if m.ID == u.machine.ID {
			password, err := key.Open(m.ID, orchestrator.SealedConsole, m.ConsolePassword)
			if err != nil {
				u.t.Fatal(err)
			}
			return password
		}
	}
	u.t.Fatal("the machine is not in the store")
	return orchestrator.Secret{}
}

// opens shakes hands with the console.
func (u *used) opens(password orchestrator.Secret) error {
	u.t.Helper()
	var conn net.Conn
	var err error
	u.manager.Do(func() {
		conn, err = net.DialTimeout("tcp4", net.JoinHostPort(consoleAddress, fmt.Sprint(u.machine.Placement.ConsolePort)), 5*time.Second)
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = rfb.Handshake(u.ctx, conn, password)
	return err
}

// echo starts a server in the guest that says what it hears.
func (u *used) echo(port int) {
	u.t.Helper()
	listen, stop := context.WithCancel(u.ctx)
	served := make(chan struct{})
	guest := u.guest
	go func() {
		defer close(served)
		_, _ = guest.Run(listen, "/usr/bin/python3", "-c", fmt.Sprintf(`import socket,threading
def serve(c):
    while True:
        d=c.recv(100)
        if not d: return
        c.send(d)
s=socket.create_server(('',%d))
while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()`, port))
	}()
	u.t.Cleanup(func() { stop(); <-served })
}

// hears sends a word and waits for it to come back.
func hears(conn net.Conn, limit time.Duration) bool {
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write([]byte("ping")); err != nil {
		return false
	}
	word := make([]byte, 4)
	_, err := io.ReadFull(conn, word)
	return err == nil && string(word) == "ping"
}

// A machine in use is changed, suspended, brought back and taken away, with real packets, a real sshd and real files as judges.
func TestMachineInUseIsChangedAndSuspendedOnRealParts(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	g := &realGuests{t: t, changes: make(chan simxapi.Power, 64), guests: map[string]*testguest.Guest{}}
	u := &used{g: g, ctx: ctx}
	u.site = newSite(t, siteConfig{
		pools: 1, consoles: true,
		power: func(p simxapi.Power) {
			if len(p.VIFs) > 0 {
				g.changes <- p
			}
		},
		address: func(mac string) (string, bool) { return g.address(mac) },
	})
	g.s = u.site
	u.w = u.serve("worker")
	foreign := u.firewall.foreign()
	oldKey, oldLine := keyPair(t)
	newKey, newLine := keyPair(t)
	u.write("order.json", string(install(1, oldLine).json(t)))
	u.must("order", filepath.Join(u.dir, "order.json"))
	u.public = u.machine.Placement.Public.String()
	u.echo(8080)

	t.Run("reconfigure", func(t *testing.T) {
		before := u.password()
		if words, err := listening(u.customer, net.JoinHostPort(u.public, "8080"), 300*time.Millisecond); err == nil {
			t.Fatalf("port 8080 is open before: %q", words)
		}
		u.must("reconfigure", "vm-0001", "--allow", "tcp/22,8080", "--ssh-key", newLine, "--hostname", "shop.acme.example", "--new-console-password", "--yes")
		var conn net.Conn
		var err error
		u.customer.Do(func() { conn, err = net.DialTimeout("tcp4", net.JoinHostPort(u.public, "8080"), 5*time.Second) })
		if err != nil {
			t.Fatalf("the new rule lets nobody in: %v", err)
		}
		defer conn.Close()
		if !hears(conn, 5*time.Second) {
			t.Error("nothing comes back through the new rule")
		}
		if err := u.enters(newKey); err != nil {
			t.Errorf("the new key: %v", err)
		}
		if err := u.enters(oldKey); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("the old key: %v", err)
		}
		if name, err := u.guest.Run(ctx, "hostname"); err != nil || name != "shop.acme.example\n" {
			t.Errorf("hostname %q, %v", name, err)
		}
		if hosts := u.dhcp.read(hostsFile); !strings.Contains(hosts, `"shop.acme.example"`) {
			t.Errorf("dhcpd says another name:\n%s", hosts)
		}
		if after := u.password(); after.Reveal() == before.Reveal() || u.opens(after) != nil || u.opens(before) == nil {
			t.Errorf("new %t; it opens: %v; the old one: %v", after.Reveal() != before.Reveal(), u.opens(after), u.opens(before))
		}
		if rules := u.rules(); strings.Contains(rules, installerAddress+"/32") {
			t.Errorf("the way in is still open:\n%s", rules)
		}
		u.must("reconfigure", "vm-0001", "--allow", "tcp/22,8081", "--yes")
		if hears(conn, time.Second) {
			t.Error("a connection has outlived the rule that let it in")
		}
		u.must("reconfigure", "vm-0001", "--allow", "tcp/22,8080", "--yes")
	})

	rules, console, password := u.rules(), u.console.read(consoleFile), u.password()
	asBefore := func(t *testing.T) {
		t.Helper()
		if diff := cmp.Diff(rules, u.rules()); diff != "" {
			t.Errorf("the firewall (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(console, u.console.read(consoleFile)); diff != "" {
			t.Errorf("xvp's file (-before +after):\n%s", diff)
		}
		if err := u.opens(password); err != nil {
			t.Errorf("the console: %v", err)
		}
		if u.machine.State != orchestrator.StateReady {
			t.Errorf("state %s", u.machine.State)
		}
	}

	t.Run("suspend and keep", func(t *testing.T) {
		in := u.incoming(t)
		defer in.Close()
		out := u.outgoing(t)
		u.must("suspend", "vm-0001", "--power", "keep", "--yes")
		if u.guest == nil || u.machine.State != orchestrator.StateSuspended {
			t.Errorf("guest runs %t, state %s", u.guest != nil, u.machine.State)
		}
		if hears(in, time.Second) {
			t.Error("an established connection into the machine goes on")
		}
		out.silent(t)
		if words, err := listening(u.customer, net.JoinHostPort(u.public, "22"), time.Second); err == nil {
			t.Errorf("a new connection is answered: %q", words)
		}
		if said, err := u.guest.Run(ctx, "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+customerAddress+"/4000"); err == nil {
			t.Errorf("the machine opens a connection: %s", said)
		}
		if err := u.opens(password); err == nil || strings.Contains(u.console.read(consoleFile), u.machine.VM) {
			t.Errorf("the console opens: %v", err)
		}
		if said, code := u.verb("reconfigure", "vm-0001", "--shut", "--yes"); code != 5 || !strings.Contains(said, "is suspended") {
			t.Errorf("a reconfiguration of a suspended machine ends with %d: %s", code, said)
		}
		u.must("suspend", "vm-0001", "--yes") // is so already
		if u.guest == nil {
			t.Error("a second suspension stops the VM")
		}
		u.must("unsuspend", "vm-0001", "--yes")
		asBefore(t)
		again := u.incoming(t)
		defer again.Close()
		if g.boots != 1 {
			t.Errorf("the guest was booted %d times", g.boots)
		}
	})

	t.Run("suspend and stop", func(t *testing.T) {
		u.must("suspend", "vm-0001", "--yes")
		if u.guest != nil {
			t.Error("the guest runs")
		}
		u.must("unsuspend", "vm-0001", "--yes")
		asBefore(t)
		if u.guest == nil || g.boots != 2 {
			t.Errorf("guest runs %t, booted %d times", u.guest != nil, g.boots)
		}
		testnet.Until(t, 30*time.Second, "the booting guest answers at port 22", func() bool {
			words, err := listening(u.customer, net.JoinHostPort(u.public, "22"), 5*time.Second)
			return err == nil && strings.HasPrefix(words, "SSH-2.0-OpenSSH")
		})
	})

	u.must("suspend", "vm-0001", "--yes")
	u.write("leave.json", string(newOrder("leave", "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": u.machine.ID}).json(t)))
	if out, code := u.verb("order", filepath.Join(u.dir, "leave.json"), "--wait"); code != 0 {
		t.Fatalf("the uninstall of a suspended machine ended with %d: %s", code, out)
	}
	u.counted(0)
	if diff := cmp.Diff(foreign, u.firewall.foreign()); diff != "" {
		t.Errorf("what is not ours in the firewall has changed (-before +after):\n%s", diff)
	}
}

// incoming is an established connection of a customer to the machine.
func (u *used) incoming(t *testing.T) net.Conn {
	t.Helper()
	var conn net.Conn
	testnet.Until(t, 10*time.Second, "a connection to port 8080", func() bool {
		var err error
		u.customer.Do(func() { conn, err = net.DialTimeout("tcp4", net.JoinHostPort(u.public, "8080"), time.Second) })
		return err == nil
	})
	if !hears(conn, 5*time.Second) {
		t.Fatal("nothing comes back from port 8080")
	}
	return conn
}

// talk is an established connection that the machine has opened, and on which it says something all the time.
type talk struct{ conn net.Conn }

func (u *used) outgoing(t *testing.T) *talk {
	t.Helper()
	var listener net.Listener
	var err error
	u.customer.Do(func() { listener, err = net.Listen("tcp4", customerAddress+":4000") })
	if err != nil {
		t.Fatal(err)
	}
	talking, stop := context.WithCancel(u.ctx)
	ended := make(chan struct{})
	guest := u.guest
	go func() {
		defer close(ended)
		_, _ = guest.Run(talking, "/usr/bin/python3", "-c", fmt.Sprintf("import socket,time\ns=socket.create_connection(('%s',4000))\nwhile 1: s.send(b'x'); time.sleep(.05)", customerAddress))
	}()
	conn, err := listener.Accept()
	_ = listener.Close()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &talk{conn}
}

// silent reads what is still in the pipe, and then nothing for a second.
func (k *talk) silent(t *testing.T) {
	t.Helper()
	buf := make([]byte, 64<<10)
	_ = k.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	for {
		if _, err := k.conn.Read(buf); err != nil {
			break
		}
	}
	_ = k.conn.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := k.conn.Read(buf); err == nil {
		t.Errorf("the machine still talks: %d bytes", n)
	}
}
