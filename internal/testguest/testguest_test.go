package testguest_test

import (
	"crypto/rand"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/workers/postinstall"
)

func TestGuestIsAMachineOfItsOwn(t *testing.T) {
	before := testguest.Identity(t)
	key, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	lab := testnet.New(t)
	ns, outer := lab.Namespace("guest"), lab.Namespace("outer")
	lab.Link(ns, "eth0", outer, "eth0")
	g := testguest.Start(t, testguest.Config{
		Namespace: ns, Interface: "eth0", Address: netip.MustParsePrefix("192.0.2.10/24"), MAC: "02:00:00:00:00:10", TemplateHostKey: key,
	})
	script := `set -e
hostname other; echo other >/etc/hostname; echo 1 >/etc/machine-id; useradd -m intruder; rm -f /etc/hosts; ps -e >/root/ps
echo x >/etc/ssh/new; mkdir -p /var/lib/slipway; ip -br addr; (echo 1 >/proc/sys/kernel/panic) 2>/dev/null && echo sysctl written; hostname`
	out, err := g.Run(t.Context(), "bash", "-c", script)
	if err != nil {
		t.Fatalf("%v\n%s", err, g.Output())
	}
	if !strings.Contains(out, "192.0.2.10/24") || !strings.HasSuffix(out, "other\n") || strings.Contains(out, "sysctl written") {
		t.Errorf("inside: %s", out)
	}
	if id, err := g.ReadFile("/etc/machine-id"); err != nil || string(id) != "1\n" {
		t.Errorf("machine id inside: %q, %v", id, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "overlay") && strings.Contains(string(mounts), t.Name()) {
		t.Errorf("the guest's mounts are seen outside:\n%s", mounts)
	}
	g.Stop()
	if diff := cmp.Diff(before, testguest.Identity(t)); diff != "" {
		t.Errorf("this machine has changed (-before +after):\n%s", diff)
	}
}
