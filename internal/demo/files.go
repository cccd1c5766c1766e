package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"slipway/workers/vault"
)

// configure writes what an operator would: the configuration, its secrets, and a directory for each appliance. It returns the
// configuration's path.
func (w *world) configure(loginKey []byte, images []string, templateKey string) (string, error) {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	secrets := map[string]string{"vault.key": vault.NewKey().Reveal(), "login.key": string(loginKey)}

	put("state_dir: state\nvault_key: {file: vault.key}\nlogin_key: {file: login.key}\nquarantine: 24h\npools:")
	for _, p := range w.pools {
		secrets[p.id+".password"] = p.password
		put("  - id: %s\n    network: %s\n    strategy: nat\n    mac_prefix: \"02:16:3e\"", p.id, p.network)
		put("    xenapi: {addresses: [\"https://%s\"], user: root, password: {file: %s.password}, pin_sha256: \"%s\"}", p.listener.Addr(), p.id, p.pin)
		put("    images:")
		for _, image := range images {
			put("      %s: {host_key: %q}", image, strings.TrimSpace(templateKey))
		}
		first, public := p.private.Addr().Next(), p.public.Addr().Next()
		put("    private: {prefix: %s, gateway: %s, ranges: [%s]}", p.private, first, usable(p.private.Addr().As4()))
		put("    public: {prefix: %s, gateway: %s, ranges: [%s]}", p.public, public, usable(p.public.Addr().As4()))
		put("    dhcp: [dhcp-%s]\n    firewall: [fw-%s]\n    console: [xvp]\n    console_ports: 20000-20999\n    installer: [%s]", p.id, p.id, installer)
	}
	put("groups:")
	for _, p := range w.pools {
		for _, unit := range []string{"dhcp", "firewall"} {
			id := strings.Replace(unit, "firewall", "fw", 1) + "-" + p.id
			put("  - id: %s\n    unit: %s\n    members: [{name: %s-1, local: {config: appliances/%s/agent.yaml}}]", id, unit, id, id)
			if unit == "firewall" {
				put("    foreign: [%s, %s]", p.private.Addr().Next(), p.public.Addr().Next())
			}
		}
	}
	put("  - id: xvp\n    unit: console\n    members: [{name: xvp-1, local: {config: appliances/xvp/agent.yaml}}]\n    accounts:")
	for _, p := range w.pools {
		put("      %s: {user: root, password: {file: %s.password}, hosts: [\"127.0.0.1 %s\"]}", p.id, p.id, p.id)
	}
	path := filepath.Join(w.dir, "slipway.yaml")
	for name, text := range secrets {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", err
	}
	return path, w.appliances()
}

// usable is the range of a /20 that the demo gives out.
func usable(base [4]byte) string {
	return fmt.Sprintf("%d.%d.%d.10-%d.%d.%d.250", base[0], base[1], base[2], base[0], base[1], base[2]+15)
}

// appliances makes the directories that stand for appliances: the agent puts the real files there, and real tools judge them.
func (w *world) appliances() error {
	write := func(path, text string) error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o644)
	}
	for _, p := range w.pools {
		dir := filepath.Join(w.dir, "appliances", "dhcp-"+p.id)
		main := filepath.Join(dir, "dhcpd.conf")
		if err := write(main, fmt.Sprintf("subnet %s netmask 255.255.240.0 {\n  option routers %s;\n  deny unknown-clients;\n}\ninclude %q;\n",
			p.private.Addr(), p.private.Addr().Next(), w.hostsFile(p))); err != nil {
			return err
		}
		if err := write(w.hostsFile(p), ""); err != nil {
			return err
		}
		if err := write(filepath.Join(dir, "agent.yaml"), fmt.Sprintf("state_dir: %s\nunits:\n  dhcp: {driver: isc-dhcpd, service: none, main: %s, include: %s}\n",
			filepath.Join(dir, "state"), main, w.hostsFile(p))); err != nil {
			return err
		}
		dir = filepath.Join(w.dir, "appliances", "fw-"+p.id)
		if err := write(filepath.Join(dir, "agent.yaml"), fmt.Sprintf("state_dir: %s\nunits:\n  firewall: {driver: iptables, service: none, rules: %s, state: %s}\n",
			filepath.Join(dir, "state"), w.rulesFile(p), filepath.Join(dir, "state", "firewall"))); err != nil {
			return err
		}
	}
	dir := filepath.Join(w.dir, "appliances", "xvp")
	return write(filepath.Join(dir, "agent.yaml"), fmt.Sprintf("state_dir: %s\nunits:\n  console: {driver: xvp, service: none, target: %s}\n",
		filepath.Join(dir, "state"), w.consoleFile()))
}
