package testnet

import (
	"testing"
	"time"

	"slipway/internal/testenv"
)

// setupTimeout bounds each command that builds the network.
const setupTimeout = 10 * time.Second

// Lab is one test's networks. New registers the clean-up.
type Lab struct {
	tb testing.TB
	ip string // the program
}

// New needs root and the program ip; a quick run without them leaves the test out.
func New(tb testing.TB) *Lab {
	tb.Helper()
	testenv.NeedRoot(tb)
	return &Lab{tb: tb, ip: testenv.Need(tb, "ip")}
}

// Namespace makes a network namespace with its loopback up. The name is for messages only, so equal names of two tests do not meet.
func (l *Lab) Namespace(name string) *Namespace {
	l.tb.Helper()
	ns, err := newNamespace(name)
	if err != nil {
		l.tb.Fatalf("namespace %s: %v", name, err)
	}
	ns.tb, ns.ipTool = l.tb, l.ip
	l.tb.Cleanup(ns.close)
	ns.MustRun("ip", "link", "set", "lo", "up")
	return ns
}

// Link joins two namespaces (or one with itself) by a veth pair; both ends are up.
func (l *Lab) Link(a *Namespace, ifA string, b *Namespace, ifB string) {
	l.tb.Helper()
	a.MustRun("ip", "link", "add", ifA, "type", "veth", "peer", "name", ifB, "netns", b.Path())
	a.MustRun("ip", "link", "set", ifA, "up")
	b.MustRun("ip", "link", "set", ifB, "up")
}
