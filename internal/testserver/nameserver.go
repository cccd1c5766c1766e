package testserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/testenv"
)

// NameServer is a private bind9 on loopback, primary for the zones that it was started with. Two keys are known to it: Key may update and
// transfer all of them, Stranger may only ask.
type NameServer struct {
	Address       string // host:port, UDP and TCP
	Key, Stranger TSIG
	dir, program  string
	guard         *guard
	server        *process
}

// TSIG is a key for hmac-sha256; Secret is base64.
type TSIG struct{ Name, Secret string }

// NewNameServer starts one with these zones, which hold nothing but what a zone must; it is removed when the test ends. Options are lines of
// a zone's block for the zones that want more than to be updated by Key.
func NewNameServer(tb testing.TB, options map[string]string, zones ...string) *NameServer {
	tb.Helper()
	n := &NameServer{program: testenv.Need(tb, "named"), Key: newTSIG("slipway"), Stranger: newTSIG("stranger")}
	tb.Cleanup(func() {
		if err := n.remove(); err != nil {
			tb.Errorf("remove the name server: %v", err)
		}
	})
	err := n.create(options, zones)
	if err == nil {
		err = n.start()
	}
	if err != nil {
		tb.Fatalf("start the name server: %v", err)
	}
	return n
}

func newTSIG(name string) TSIG {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return TSIG{Name: name, Secret: base64.StdEncoding.EncodeToString(secret[:])}
}

func (n *NameServer) create(options map[string]string, zones []string) error {
	var err error
	if n.dir, err = os.MkdirTemp("", "slipway-named-"); err != nil {
		return err
	}
	if n.guard, err = startGuard(n.dir); err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	n.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	var b strings.Builder
	// Everything that named would put elsewhere on the machine is named here.
	fmt.Fprintf(&b, `options {
	directory "%[1]s"; managed-keys-directory "%[1]s"; pid-file "%[1]s/pid"; session-keyfile "%[1]s/session.key"; lock-file none;
	listen-on port %[2]d { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no; allow-transfer { key slipway; };
};
controls { };
`, n.dir, ports[0])
	for _, k := range []TSIG{n.Key, n.Stranger} {
		fmt.Fprintf(&b, "key %s { algorithm hmac-sha256; secret %q; };\n", k.Name, k.Secret)
	}
	for i, zone := range zones {
		file := fmt.Sprintf("zone-%d", i)
		text := "$TTL 60\n@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60\n@ NS ns.invalid.\n"
		if err := os.WriteFile(filepath.Join(n.dir, file), []byte(text), 0o600); err != nil {
			return err
		}
		more, ok := options[zone]
		if !ok {
			more = "allow-update { key slipway; };"
		}
		fmt.Fprintf(&b, "zone %q { type primary; file %q; %s };\n", zone, file, more)
	}
	return os.WriteFile(filepath.Join(n.dir, "named.conf"), []byte(b.String()), 0o600)
}

func (n *NameServer) start() error {
	cmd := exec.Command(n.program, "-g", "-n", "1", "-c", filepath.Join(n.dir, "named.conf"))
	cmd.Dir = n.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	server, err := start(cmd, filepath.Join(n.dir, "out"))
	if err != nil {
		return err
	}
	n.server = server
	if err := n.guard.watch(server); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	err = poll(ctx, func() error {
		if server.exited() {
			return fatal{errors.New("it ended by itself")}
		}
		if !strings.Contains(server.tail(), "all zones loaded") {
			return errors.New("the zones are not loaded yet")
		}
		conn, err := net.Dial("tcp", n.Address)
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

// Stop ends the server; Start runs it again with what it had been told.
func (n *NameServer) Stop(tb testing.TB) {
	tb.Helper()
	err := n.server.stop(syscall.SIGTERM)
	n.server = nil
	if err != nil {
		tb.Fatalf("stop the name server: %v", err)
	}
}

// Start runs a server again that was stopped.
func (n *NameServer) Start(tb testing.TB) {
	tb.Helper()
	if err := os.Remove(filepath.Join(n.dir, "out")); err != nil {
		tb.Fatal(err)
	}
	if err := n.start(); err != nil {
		tb.Fatalf("start the name server again: %v", err)
	}
}

// Log is what the server has said.
func (n *NameServer) Log() string {
	if n.server == nil {
		return ""
	}
	return n.server.tail()
}

func (n *NameServer) remove() error {
	var errs []error
	if n.server != nil {
		n.server.kill9() // the zones go anyway
		n.server = nil
	}
	if n.guard != nil {
		errs = append(errs, n.guard.dismiss())
		n.guard = nil
	}
	if n.dir != "" {
		errs = append(errs, os.RemoveAll(n.dir))
		n.dir = ""
	}
	return errors.Join(errs...)
}
