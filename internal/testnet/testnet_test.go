package testnet_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLinkCarriesPackets(t *testing.T) {
	lab := testnet.New(t)
	a, b := lab.Namespace("a"), lab.Namespace("b")
	lab.Link(a, "eth0", b, "eth0")
	a.MustRun("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	b.MustRun("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")

	var listener net.Listener
	var err error
	a.Do(func() { listener, err = net.Listen("tcp4", "192.0.2.1:80") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var conn net.Conn
	b.Do(func() { conn, err = net.DialTimeout("tcp4", "192.0.2.1:80", 5*time.Second) })
	if err != nil {
		t.Fatalf("from b: %v", err)
	}
	_ = conn.Close()
	if _, err := net.DialTimeout("tcp4", "192.0.2.1:80", 50*time.Millisecond); err == nil {
		t.Fatal("the machine itself reaches the namespace")
	}
}

func TestBridgeJoinsThree(t *testing.T) {
	lab := testnet.New(t)
	hub, a, b := lab.Namespace("hub"), lab.Namespace("a"), lab.Namespace("b")
	lab.Link(hub, "to-a", a, "eth0")
	lab.Link(hub, "to-b", b, "eth0")
	hub.Bridge("br0", "to-a", "to-b")
	a.MustRun("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	b.MustRun("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	var listener net.Listener
	var err error
	a.Do(func() { listener, err = net.Listen("tcp4", "192.0.2.1:80") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	b.Do(func() {
		conn, dialErr := net.DialTimeout("tcp4", "192.0.2.1:80", 5*time.Second)
		if err = dialErr; err == nil {
			_ = conn.Close()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProcessLivesInsideAndEndsWithTheTest(t *testing.T) {
	testenv.NeedRoot(t)
	var process *testnet.Process
	t.Run("inner", func(t *testing.T) {
		ns := testnet.New(t).Namespace("n")
		process = ns.Start("sleep", "1000")
		inside, err := os.Readlink(ns.Path())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(ns.MustRun("readlink", "/proc/self/ns/net")); got != inside {
			t.Errorf("a command runs in %s, not in %s", got, inside)
		}
		outside, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil || outside == inside {
			t.Errorf("the test's own thread is in %s (%v)", outside, err)
		}
		if entered := ns.Enter("true"); len(entered) != 3 {
			t.Errorf("Enter = %v", entered)
		}
	})
	select {
	case <-process.Done():
	default:
		t.Error("the process outlived its test")
	}
}

func TestRunReportsFailure(t *testing.T) {
	ns := testnet.New(t).Namespace("n")
	out, err := ns.Run(t.Context(), "sh", "-c", "echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "why") || !strings.Contains(out, "why") {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err = ns.RunInput(t.Context(), "hello", "cat"); err != nil || out != "hello" {
		t.Errorf("cat gave %q, %v", out, err)
	}
}
