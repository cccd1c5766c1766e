package testguest_test

import (
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/workers/postinstall"
)

func TestAddressFromARealDHCPServer(t *testing.T) {
	key, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	lab := testnet.New(t)
	ns, server := lab.Namespace("guest"), lab.Namespace("server")
	lab.Link(ns, "eth0", server, "eth0")
	server.MustRun("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
	dir := t.TempDir()
	config, leases := filepath.Join(dir, "dhcpd.conf"), filepath.Join(dir, "leases")
	for name, text := range map[string]string{
		config: `subnet 192.0.2.0 netmask 255.255.255.0 { option routers 192.0.2.1; }
host one { hardware ethernet 02:00:00:00:00:2a; fixed-address 192.0.2.42; }
`,
		leases: "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dhcpd := server.Start("dhcpd", "-4", "-f", "-d", "-user", "root", "-group", "root", "-cf", config, "-lf", leases, "-pf", filepath.Join(dir, "pid"), "eth0")
	g := testguest.Start(t, testguest.Config{Namespace: ns, Interface: "eth0", MAC: "02:00:00:00:00:2a", TemplateHostKey: key})
	testnet.Until(t, 30*time.Second, "the guest's sshd to answer at its leased address", func() bool {
		var banner string
		server.Do(func() {
			c, err := net.DialTimeout("tcp", "192.0.2.42:22", time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			text := make([]byte, 64)
			n, _ := c.Read(text)
			banner = string(text[:n])
		})
		return strings.HasPrefix(banner, "SSH-2.0-OpenSSH")
	})
	if !strings.Contains(dhcpd.Output(), "DHCPACK on 192.0.2.42 to 02:00:00:00:00:2a") {
		t.Errorf("dhcpd said:\n%s", dhcpd.Output())
	}
	route, err := g.Run(t.Context(), "ip", "route")
	if err != nil || !strings.Contains(route, "default via 192.0.2.1") {
		t.Errorf("routes: %s, %v", route, err)
	}
}
