package ssh_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/postinstall/ssh"
)

// The whole way to a new machine: its address from a real dhcpd by its MAC, reached by its public one through a real NAT, installed by
// the Debian entry; and the machine that runs all this is the same afterwards.
func TestRealGuestBehindDHCPAndNAT(t *testing.T) {
	before := testguest.Identity(t)
	template, templateLine := keyPair(t)
	installerKey, installerLine := keyPair(t)
	machine, machineLine := keyPair(t)
	_, customer := keyPair(t)
	lab := testnet.New(t)
	inner, router, outer := lab.Namespace("guest"), lab.Namespace("router"), lab.Namespace("installer")
	lab.Link(inner, "eth0", router, "lan")
	lab.Link(outer, "eth0", router, "wan")
	outer.MustRun("ip", "address", "add", "198.51.100.2/24", "dev", "eth0")
	router.MustRun("ip", "address", "add", "198.51.100.1/24", "dev", "wan")
	router.MustRun("ip", "address", "add", "198.51.100.42/32", "dev", "wan")
	router.MustRun("ip", "address", "add", "192.0.2.1/24", "dev", "lan")
	router.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1") // of the namespace
	router.MustRun("iptables", "-P", "FORWARD", "DROP")
	for _, rule := range []string{
		"-t nat -A PREROUTING -d 198.51.100.42 -j DNAT --to-destination 192.0.2.42",
		"-t nat -A POSTROUTING -s 192.0.2.42 -o wan -j SNAT --to-source 198.51.100.42",
		"-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
		"-A FORWARD -s 198.51.100.2 -d 192.0.2.42 -p tcp --dport 22 -j ACCEPT",
	} {
		router.MustRun(append([]string{"iptables"}, strings.Fields(rule)...)...)
	}
	dir := t.TempDir()
	config, leases := filepath.Join(dir, "dhcpd.conf"), filepath.Join(dir, "leases")
	text := "subnet 192.0.2.0 netmask 255.255.255.0 { option routers 192.0.2.1; }\nhost web1 { hardware ethernet 02:00:00:00:00:2a; fixed-address 192.0.2.42; }\n"
	for name, text := range map[string]string{config: text, leases: ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	router.Start("dhcpd", "-4", "-f", "-d", "-user", "root", "-group", "root", "-cf", config, "-lf", leases, "-pf", filepath.Join(dir, "pid"), "lan")
	b := &realBundle{
		guest: testguest.Start(t, testguest.Config{
			Namespace: inner, Interface: "eth0", MAC: "02:00:00:00:00:2a", TemplateHostKey: template, AuthorizedKeys: []string{installerLine},
		}),
		config: ssh.Config{
			Catalogue: catalogue(t), Key: signer(t, installerKey), TemplateKeys: func(string, string) []string { return []string{templateLine} },
			HandshakeTimeout: 2 * time.Second,
			Dial: func(ctx context.Context, network, address string) (c net.Conn, err error) {
				outer.Do(func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
				return c, err
			},
		},
		ref: orchestrator.Guest{
			Machine: machineID, Pool: "paris", Image: "debian-12", Address: netip.MustParseAddrPort("198.51.100.42:22"), HostKey: machineLine,
		},
		job: orchestrator.Job{ID: "run-1-1", Hostname: "web1.example.net", SSHKeys: []string{customer}, HostKeySecret: machine},
	}
	b.restart(t)
	testnet.Until(t, 30*time.Second, "the guest to be reached by its public address", func() bool {
		evidence, err := b.installer.Probe(t.Context(), b.ref)
		if err != nil && orchestrator.KindOf(err) != orchestrator.Transient {
			t.Fatal(err)
		}
		return err == nil && strings.Contains(evidence, "template's host key")
	})
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	if status, log := b.until(t, b.job.ID, orchestrator.JobExited); status.Exit != 0 {
		t.Fatalf("exit code %d:\n%s", status.Exit, log)
	}
	b.ref.Own = true
	inspection, err := b.installer.Inspect(t.Context(), b.ref)
	if err != nil {
		t.Fatal(err)
	}
	for name, result := range inspection.Checks {
		if result != "ok" {
			t.Errorf("check %s: %s", name, result)
		}
	}
	if len(inspection.Checks) != 5 {
		t.Errorf("checks: %v", inspection.Checks)
	}
	if diff := cmp.Diff(before, testguest.Identity(t)); diff != "" {
		t.Errorf("this machine has changed (-before +after):\n%s", diff)
	}
}
