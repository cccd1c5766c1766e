package config

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7"

const good = `
state_dir: state
vault_key: {file: secrets/vault.key}
login_key: {file: /abs/login.key}
pools:
  - id: pool-a
    network: 5a0cb2ac-0000-4000-8000-000000000001
    xenapi: {addresses: ["https://xen1.example.net"], user: slipway, password: {file: pool-a.password}, ca_file: ca.pem}
    images: {debian-12: {host_key: "` + hostKey + `"}}
    private: {prefix: 10.20.0.0/22, gateway: 10.20.0.1, ranges: [10.20.0.10-10.20.3.250], reserved: [10.20.1.1]}
    public: {prefix: 203.0.113.0/24, gateway: 203.0.113.1, ranges: [203.0.113.10 - 203.0.113.250]}
    dhcp: [dhcp-a]
    firewall: [fw-a]
    console: [xvp-a]
    console_ports: 20000-20999
    installer: [192.0.2.10]
groups:
  - id: dhcp-a
    unit: dhcp
    members:
      - {name: dhcp1, local: {config: agents/dhcp.yaml}}
      - {name: dhcp2, ssh: {address: "dhcp2.example.net:22", user: slipway, key: {file: agents.key}, host_key: "` + hostKey + `"}}
  - {id: fw-a, unit: firewall, members: [{name: fw1, local: {config: agents/fw.yaml}}]}
  - id: xvp-a
    unit: console
    members: [{name: xvp1, local: {config: agents/xvp.yaml}}]
    accounts: {pool-a: {user: xvp, password: {file: xvp.password}, hosts: [xen1]}}
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slipway.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, good)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	for _, tc := range []struct{ name, got, want string }{
		{"state_dir", c.StateDir, dir + "/state"},
		{"database", c.Database, "sqlite:" + dir + "/state/slipway.db"},
		{"socket", c.Socket, dir + "/state/slipway.sock"},
		{"vault_key", c.VaultKey.File, dir + "/secrets/vault.key"},
		{"login_key", c.LoginKey.File, "/abs/login.key"},
		{"xenapi.password", c.Pools[0].XenAPI.Password.File, dir + "/pool-a.password"},
		{"xenapi.ca_file", c.Pools[0].XenAPI.CAFile, dir + "/ca.pem"},
		{"local.config", c.Groups[0].Members[0].Local.Config, dir + "/agents/dhcp.yaml"},
		{"ssh.key", c.Groups[0].Members[1].SSH.Key.File, dir + "/agents.key"},
		{"accounts", c.Groups[2].Accounts["pool-a"].Password.File, dir + "/xvp.password"},
		{"queue.kind", c.Queue.Kind, "embedded"},
		{"strategy", c.Pools[0].Strategy, "nat"},
		{"mac_prefix", c.Pools[0].MACPrefix, "02:16:3e"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s is %q, want %q", tc.name, tc.got, tc.want)
		}
	}
	if c.Quarantine != 24*time.Hour || c.Lease != time.Minute || c.Workers != 64 || c.Queue.Prefetch != 32 || c.TenantRuns != 500 || c.BootTimeout != 30*time.Minute || c.Audit.Every != 15*time.Minute || c.Groups[0].MinApplied != 2 {
		t.Errorf("defaults: %+v", c)
	}
	e := c.Estate([]string{"debian-12"})
	p := e.Pools[0]
	want := orchestrator.Subnet{
		Prefix: netip.MustParsePrefix("10.20.0.0/22"), Gateway: netip.MustParseAddr("10.20.0.1"),
		Ranges:   []orchestrator.AddressRange{{First: netip.MustParseAddr("10.20.0.10"), Last: netip.MustParseAddr("10.20.3.250")}},
		Reserved: []netip.Addr{netip.MustParseAddr("10.20.1.1")},
	}
	if diff := cmp.Diff(want, p.Private, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if p.Installer[0] != netip.MustParsePrefix("192.0.2.10/32") || p.ConsolePorts != (orchestrator.PortRange{First: 20000, Last: 20999}) || p.Images[0] != "debian-12" {
		t.Errorf("pool %+v", p)
	}
	groups, members := c.DomainGroups()
	if len(groups) != 3 || len(members) != 4 || groups[0].MinApplied != 2 || members[1] != (orchestrator.Member{Group: "dhcp-a", Name: "dhcp2"}) {
		t.Errorf("%+v %+v", groups, members)
	}
}

// The example that is shipped is one that serve takes.
func TestExampleLoads(t *testing.T) {
	if _, err := Load("../../deploy/slipway.example.yaml"); err != nil {
		t.Error(err)
	}
}

// Every kind of mistake names the key, and says what to write.
func TestMistakes(t *testing.T) {
	for _, tc := range []struct{ name, old, new, field, fix string }{
		{"database", "state_dir: state", "database: mysql://root:hunter2@db/x", "database", "sqlite:PATH"},
		{"no database file", "state_dir: state", "database: 'sqlite:'", "database", "sqlite:PATH"},
		{"password in the database", "state_dir: state", "database: postgres://u:hunter2@db/x", "database", "database_password"},
		{"password in the query", "state_dir: state", "database: postgres://u@db/x?password=hunter2", "database", "database_password"},
		{"a password that breaks the URL", "state_dir: state", "database: 'postgres://u:hunter2%zz@db/x'", "database", "postgres://"},
		{"password in the queue", "state_dir: state", "queue: {kind: amqp, url: 'amqps://u:hunter2@mq/v'}", "queue.url", "queue.password"},
		{"queue url", "state_dir: state", "queue: {kind: amqp, url: 'http://mq'}", "queue.url", "amqps://"},
		{"queue kind", "state_dir: state", "queue: {kind: kafka}", "queue.kind", "embedded or amqp"},
		{"prefetch", "state_dir: state", "queue: {prefetch: -1}", "queue.prefetch", "1 to"},
		{"workers", "state_dir: state", "workers: -3", "workers", "1 to"},
		{"quarantine", "state_dir: state", "quarantine: -1h", "quarantine", "24h"},
		{"boot timeout", "state_dir: state", "boot_timeout: -1m", "boot_timeout", "30m"},
		{"boot timeout of nothing", "state_dir: state", "boot_timeout: 0s", "boot_timeout", "30m"},
		{"boot timeout in the wrong unit", "state_dir: state", "boot_timeout: 1ms", "boot_timeout", "at least 10s"},
		{"no workers", "state_dir: state", "workers: 0", "workers", "1 to 10000"},
		{"no prefetch", "state_dir: state", "queue: {prefetch: 0}", "queue.prefetch", "1 to 10000"},
		{"no runs for a tenant", "state_dir: state", "tenant_runs: 0", "tenant_runs", "500"},
		{"no quarantine", "state_dir: state", "quarantine: 0s", "quarantine", "at least 1s"},
		{"no lease", "state_dir: state", "lease: 0s", "lease", "at least 1s"},
		{"audit without a pause", "state_dir: state", "audit: {every: 0s}", "audit.every", "-1s for never"},
		{"guard of no time", "state_dir: state", "guard: {window: 0s}", "guard.window", "10m"},
		{"guard that lets nothing through", "state_dir: state", "guard: {uninstalls: 0}", "guard.uninstalls", "-1 for any number"},
		{"guard that suspends nothing", "state_dir: state", "guard: {suspensions: 0}", "guard.suspensions", "250"},
		{"token without a life", "state_dir: state", "console: {listen: '127.0.0.1:6080', url: 'https://c.example.net', token_life: 0s}", "console.token_life", "1s to 1h"},
		{"session without an age", "state_dir: state", "console: {listen: '127.0.0.1:6080', url: 'https://c.example.net', session_age: 0s}", "console.session_age", "1m to 168h"},
		{"notify without a program", "state_dir: state", "notify: {command: ['']}", "notify.command", "PROGRAM"},
		{"lease", "state_dir: state", "lease: 1ms", "lease", "1m"},
		{"lease for ever", "state_dir: state", "lease: 1000h", "lease", "1h"},
		{"a guard without a window", "state_dir: state", "guard: {window: 1ms}", "guard.window", "10m"},
		{"listen", "state_dir: state", "listen: nine", "listen", "127.0.0.1:"},
		{"webhook", "state_dir: state", "notify: {webhook: hunter2}", "notify.webhook", "https://"},
		{"monitoring without a URL", "state_dir: state", "monitoring: {token: {file: t}}", "monitoring.url", "leave monitoring out"},
		{"monitoring's URL", "state_dir: state", "monitoring: {url: hunter2}", "monitoring.url", "https://"},
		{"a secret in monitoring's URL", "state_dir: state", "monitoring: {url: 'https://m.example.net/?key=hunter2'}", "monitoring.url", "monitoring.token"},
		{"monitoring in the clear", "state_dir: state", "monitoring: {url: 'http://m.example.net'}", "monitoring.url", "https"},
		{"dns without a zone", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {server: ns1, key: {name: slipway, secret: {file: k}}}", "pools.pool-a.dns.zone", "leave dns out"},
		{"pointers without a zone", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {server: ns1, key: {name: slipway, secret: {file: k}}, reverse: [{prefix: 198.51.100.0/24, zone: 100.51.198.in-addr.arpa}]}", "pools.pool-a.dns.zone", "pointers lead to"},
		{"dns without a server", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net, key: {name: slipway, secret: {file: k}}}", "pools.pool-a.dns.server", "primary"},
		{"dns without a key", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net, server: ns1, key: {secret: {file: k}}}", "pools.pool-a.dns.key.name", "TSIG"},
		{"dns without a secret", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net, server: ns1, key: {name: slipway}}", "pools.pool-a.dns.key.secret", "tsig-keygen"},
		{"a TTL of no time", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net, server: ns1, key: {name: slipway, secret: {file: k}}, ttl: 1ms}", "pools.pool-a.dns.ttl", "1s to"},
		{"a zone with a dot", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net., server: ns1, key: {name: slipway, secret: {file: k}}}", "pools.pool-a.dns.zone", "final dot"},
		{"another's reverse zone", "    installer: [192.0.2.10]", "    installer: [192.0.2.10]\n    dns: {zone: vm.example.net, server: ns1, key: {name: slipway, secret: {file: k}}, reverse: [{prefix: 198.51.100.0/24, zone: 101.51.198.in-addr.arpa}]}", "pools.pool-a.dns.reverse[0].zone", "100.51.198.in-addr.arpa"},
		{"vault key", "vault_key: {file: secrets/vault.key}", "", "vault_key", "64 hex digits"},
		{"login key", "login_key: {file: /abs/login.key}", "", "login_key", "SSH key"},
		{"no pool address", `addresses: ["https://xen1.example.net"]`, "addresses: []", "pools.pool-a.xenapi.addresses", "https://"},
		{"pool address", `"https://xen1.example.net"`, `"xen1"`, "pools.pool-a.xenapi.addresses[0]", "https://"},
		{"plain http", `"https://xen1.example.net"`, `"http://xen1"`, "pools.pool-a.xenapi.addresses[0]", "https"},
		{"user in a pool address", `"https://xen1.example.net"`, `"https://root:hunter2@xen1"`, "pools.pool-a.xenapi.addresses[0]", "xenapi.user"},
		{"pool user", "user: slipway, password: {file: pool-a.password}", "password: {file: pool-a.password}", "pools.pool-a.xenapi.user", "account"},
		{"pool password", "user: slipway, password: {file: pool-a.password}", "user: slipway", "pools.pool-a.xenapi.password", "password"},
		{"pin", "ca_file: ca.pem", "pin_sha256: abc", "pools.pool-a.xenapi.pin_sha256", "64 hex"},
		{"network", "network: 5a0cb2ac-0000-4000-8000-000000000001", "", "pools.pool-a.network", "uuid"},
		{"images", `images: {debian-12: {host_key: "` + hostKey + `"}}`, "", "pools.pool-a.images", "templates"},
		{"host key", `{debian-12: {host_key: "` + hostKey + `"}}`, "{debian-12: {}}", "pools.pool-a.images.debian-12.host_key", "pinned"},
		{"windows without a password", `{debian-12: {host_key: "` + hostKey + `"}}`, "{w: {winrm: {pin_sha256: '" + strings.Repeat("0", 64) + "'}}}", "pools.pool-a.images.w.winrm.password", "installer account"},
		{"windows without a pin", `{debian-12: {host_key: "` + hostKey + `"}}`, "{w: {winrm: {password: {file: w}}}}", "pools.pool-a.images.w.winrm.pin_sha256", "SHA-256"},
		{"windows with a bad pin", `{debian-12: {host_key: "` + hostKey + `"}}`, "{w: {winrm: {password: {file: w}, pin_sha256: [abc]}}}", "pools.pool-a.images.w.winrm.pin_sha256", "64 hex"},
		{"image of both kinds", `{debian-12: {host_key: "` + hostKey + `"}}`, `{w: {host_key: "` + hostKey + `", winrm: {password: {file: w}}}}`, "pools.pool-a.images.w", "leave host_key for"},
		{"basic in the clear", "state_dir: state", "winrm: {insecure_http: true, basic: true}", "winrm.basic", "choose one"},
		{"host key that is none", `{debian-12: {host_key: "` + hostKey + `"}}`, "{debian-12: {host_key: ssh-ed25519}}", "pools.pool-a.images.debian-12.host_key", ".pub"},
		{"mac prefix", "dhcp: [dhcp-a]", "dhcp: [dhcp-a]\n    mac_prefix: zz", "pools.pool-a.mac_prefix", "02:16:3e"},
		{"delivery of private addresses", "reserved: [10.20.1.1]", "reserved: [10.20.1.1], delivery: arp", "pools.pool-a.private.delivery", "public"},
		{"delivery", "203.0.113.10 - 203.0.113.250]", "203.0.113.10 - 203.0.113.250], delivery: rip", "pools.pool-a.public.delivery", "routed or arp"},
		{"address service", "dhcp: [dhcp-a]", "dhcp: [dhcp-a]\n    ipam: corp", "pools.pool-a.ipam", "under ipam"},
		{"address service's URL", "pools:", "ipam: [{id: corp, url: 'http://ipam.example.net', token: {env: T}}]\npools:", "ipam[0].url", "https"},
		{"address service's token", "pools:", "ipam: [{id: corp, url: 'https://ipam.example.net'}]\npools:", "ipam[0].token", "token"},
		{"address service's name", "pools:", "ipam: [{id: 'c d', url: 'https://ipam.example.net', token: {env: T}}]\npools:", "ipam[0].id", "letters"},
		{"strategy", "dhcp: [dhcp-a]", "dhcp: [dhcp-a]\n    strategy: magic", "pools.pool-a.strategy", "nat or routed"},
		{"ipv6", "prefix: 10.20.0.0/22, gateway: 10.20.0.1", "prefix: 'fd00::/64'", "pools.pool-a.private.prefix", "IPv4"},
		{"gateway", "gateway: 10.20.0.1", "gateway: 10.99.0.1", "pools.pool-a.private.gateway", "prefix"},
		{"range", "10.20.0.10-10.20.3.250", "10.20.0.10-10.20.9.250", "pools.pool-a.private.ranges[0]", "inside"},
		{"unknown group", "dhcp: [dhcp-a]", "dhcp: [dhcp-z]", "pools.pool-a.dhcp", "groups"},
		{"group of another unit", "dhcp: [dhcp-a]", "dhcp: [fw-a]", "pools.pool-a.dhcp", "unit dhcp"},
		{"no firewall", "firewall: [fw-a]", "", "pools.pool-a.firewall", "group"},
		{"no account", "{pool-a: {user: xvp", "{pool-b: {user: xvp", "groups.xvp-a.accounts", "account"},
		{"account's user", "{pool-a: {user: xvp, ", "{pool-a: {", "groups.xvp-a.accounts.pool-a.user", "account"},
		{"account's password", "password: {file: xvp.password}, hosts", "hosts", "groups.xvp-a.accounts.pool-a.password", "password"},
		{"group's name", "id: fw-a, unit", "id: fw a, unit", "groups[1].id", "letters"},
		{"member's name", "name: dhcp2", `name: "dhcp\n2"`, "groups.dhcp-a.members[1].name", "letters"},
		{"unit", "id: fw-a, unit: firewall", "id: fw-a, unit: router", "groups.fw-a.unit", "dhcp, firewall"},
		{"group twice", "id: fw-a, unit", "id: dhcp-a, unit", "groups.dhcp-a", "of its own"},
		{"group without a name", "id: fw-a, unit", "unit", "groups[1].id", "name"},
		{"min_applied", "unit: dhcp\n", "unit: dhcp\n    min_applied: 3\n", "groups.dhcp-a.min_applied", "1 to 2"},
		{"no members", "members: [{name: fw1, local: {config: agents/fw.yaml}}]", "members: []", "groups.fw-a.members", "appliance"},
		{"member twice", "name: dhcp2", "name: dhcp1", "groups.dhcp-a.members[1].name", "of its own"},
		{"member without a way", "{name: fw1, local: {config: agents/fw.yaml}}", "{name: fw1}", "groups.fw-a.members[0]", "local:, ssh: or queue:"},
		{"member with two ways", "{name: fw1, local: {config: agents/fw.yaml}}", "{name: fw1, local: {config: x}, queue: {agent: fw1, key: {file: k}}}", "groups.fw-a.members[0]", "local:, ssh: or queue:"},
		{"agent without a broker", "{name: fw1, local: {config: agents/fw.yaml}}", "{name: fw1, queue: {agent: fw1, key: {file: k}}}", "groups.fw-a.members[0].queue", "queue.kind"},
		{"member's key", "key: {file: agents.key}, ", "", "groups.dhcp-a.members[1].ssh.key", "private key"},
		{"member's host key", `, host_key: "` + hostKey + `"}}`, "}}", "groups.dhcp-a.members[1].ssh.host_key", "pin"},
		{"member's address", `"dhcp2.example.net:22"`, "dhcp2", "groups.dhcp-a.members[1].ssh.address", ":22"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(good, tc.old) {
				t.Fatalf("the good file has no %q", tc.old)
			}
			text := strings.Replace(good, tc.old, tc.new, 1)
			if tc.name == "member's host key" {
				text = strings.Replace(good, `key: {file: agents.key}, host_key: "`+hostKey+`"`, "key: {file: agents.key}", 1)
			}
			_, err := Load(write(t, text))
			var fields orchestrator.FieldErrors
			if !errors.As(err, &fields) {
				t.Fatalf("error %v", err)
			}
			found := false
			for _, f := range fields {
				found = found || f.Field == tc.field && strings.Contains(f.Fix, tc.fix)
				if f.Problem == "" || f.Fix == "" {
					t.Errorf("no problem or fix: %+v", f)
				}
			}
			if !found {
				t.Errorf("nothing about %s:\n%v", tc.field, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a password is repeated: %v", err)
			}
		})
	}
}

// An appliance's host key is exchanged with both pinned, as the handbook says.
func TestTwoHostKeysOfAMember(t *testing.T) {
	one := `key: {file: agents.key}, host_key: "` + hostKey + `"`
	for keys, valid := range map[string]bool{hostKey + `\n` + hostKey + ` new\n`: true, hostKey + `\nno key`: false} {
		_, err := Load(write(t, strings.Replace(good, one, `key: {file: agents.key}, host_key: "`+keys+`"`, 1)))
		if (err == nil) != valid {
			t.Errorf("%q: %v", keys, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "quee: {}\n", `line 1: unknown key "quee"; did you mean "queue"?`},
		{"duration without a unit", "lease: 10\n", `line 1: lease: "10" is not a duration: write a number and its unit, such as 10s`},
		{"number that is too large", "state_dir: x\nworkers: 99999999999999999999\n", `line 2: workers: "99999999999999999999" is not a whole number of a sensible size`},
		{"number that is none", "queue: {prefetch: many}\n", `line 1: queue.prefetch: "many" is not a whole number`},
		{"neither true nor false", "queue: {insecure: maybe}\n", `line 1: queue.insecure: "maybe" is not a yes or no: write true or false`},
		{"text for a list", "notify:\n  command: ls -l\n", `line 2: notify.command: is one value and should be a list: write [ONE, TWO]`},
		{"list for a text", "socket: [a]\n", `line 1: socket: is a list and should be one value`},
		{"list for keys", "queue: [a]\n", `line 1: queue: is a list and should be keys`},
		{"text for a map", strings.Replace(good, "accounts: {pool-a: {user: xvp, password: {file: xvp.password}, hosts: [xen1]}}", "accounts: xvp", 1), `line 27: groups.xvp-a.accounts: is one value and should be keys`},
		{"ports backwards", strings.Replace(good, "20000-20999", "20999-20000", 1), `line 15: pools.pool-a.console_ports: "20999-20000" ends before it begins`},
		{"a port beyond all", strings.Replace(good, "20000-20999", "20000-70000", 1), `line 15: pools.pool-a.console_ports: "70000" is not a port`},
		{"installer", strings.Replace(good, "installer: [192.0.2.10]", "installer: [foo]", 1), `line 16: pools.pool-a.installer[0]: "foo" is not an address range: write one such as`},
		{"range backwards", strings.Replace(good, "10.20.0.10-10.20.3.250", "10.20.3.250-10.20.0.10", 1), `line 10: pools.pool-a.private.ranges[0]: "10.20.3.250-10.20.0.10" ends before it begins`},
		{"pin", strings.Replace(good, "ca_file: ca.pem", "pin_sha256: {a: b}", 1), `line 8: pools.pool-a.xenapi.pin_sha256: is not a list of texts`},
		{"behind an alias", "notify: &n {command: ls}\nguard: *n\n", `line 1: notify.command: is one value and should be a list`},
		{"two at once", "lease: 10\nworkers: many\n", "such as 10s, 5m or 24h\nline 2: workers"},
		{"unknown key inside", strings.Replace(good, "min_applied", "x", 1) + "    min_aplied: 2\n", `unknown key "min_aplied"; did you mean "min_applied"?`},
		{"empty", "", "deploy/slipway.example.yaml"},
		{"two documents", good + "---\nqueue: {}\n", "more than one document"},
		{"twice", "workers: 1\nworkers: 2\n", "already defined"},
		{"a secret as text", "vault_key: 0123\n", "line 1: vault_key: is one value and should be where the secret is: write {file: PATH}"},
		{"a secret as text in a list", strings.Replace(good, "password: {file: pool-a.password}", "password: hunter2", 1), "line 8: pools.pool-a.xenapi.password: is one value"},
		{"not an address", strings.Replace(good, "gateway: 10.20.0.1", "gateway: ten", 1), `"ten" is not an address`},
		{"not a prefix", strings.Replace(good, "prefix: 10.20.0.0/22", "prefix: 10.20", 1), "is not an address range"},
		{"not a range", strings.Replace(good, "10.20.0.10-10.20.3.250", "10.20.0.10", 1), "is not a range"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Load(write(t, tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			for _, inside := range []string{"hunter2", "config.", "unmarshal"} { // a secret, and our own types' names
				if err != nil && strings.Contains(err.Error(), inside) {
					t.Errorf("%q is in %v", inside, err)
				}
			}
		})
	}
	if _, err := Load("/does/not/exist"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := Load("/dev/zero"); err == nil || !strings.Contains(err.Error(), "/dev/zero has more than 8388608 bytes") {
		t.Errorf("error %v", err)
	}
}

// What does not follow from itself is not said: a number of workers that makes no sense bounds no pool.
func TestOneFaultIsSaidOnce(t *testing.T) {
	_, err := Load(write(t, good+"workers: -4\n"))
	var fields orchestrator.FieldErrors
	if !errors.As(err, &fields) || len(fields) != 1 || fields[0].Field != "workers" {
		t.Errorf("%v", err)
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "  s3cret\n", "empty": "\n", "cred": "from systemd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SLIPWAY_TEST_SECRET", "from env")
	t.Setenv("SLIPWAY_TEST_EMPTY", "")
	for _, tc := range []struct {
		name        string
		secret      Secret
		credentials string
		want, err   string
	}{
		{"file", Secret{File: dir + "/a"}, "", "s3cret", ""},
		{"environment", Secret{Env: "SLIPWAY_TEST_SECRET"}, "", "from env", ""},
		{"credential", Secret{Credential: "cred"}, dir, "from systemd", ""},
		{"credential that climbs", Secret{Credential: "../../" + filepath.Base(dir) + "/cred"}, dir, "from systemd", ""},
		{"no credentials", Secret{Credential: "cred"}, "", "", "LoadCredential=cred"},
		{"empty file", Secret{File: dir + "/empty"}, "", "", "is empty"},
		{"empty variable", Secret{Env: "SLIPWAY_TEST_EMPTY"}, "", "", "SLIPWAY_TEST_EMPTY"},
		{"a device without end", Secret{File: "/dev/zero"}, "", "", "more than 65536 bytes"},
		{"no file", Secret{File: dir + "/none"}, "", "", "no such file"},
		{"two places", Secret{File: dir + "/a", Env: "SLIPWAY_TEST_SECRET"}, "", "", "exactly one"},
		{"nowhere", Secret{}, "", "", "exactly one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", tc.credentials)
			got, err := tc.secret.Read()
			if got.Reveal() != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q, %v", got.Reveal(), err)
			}
		})
	}
}

// A secret that everybody may read is found wherever it stands; one of its owner and group is not remarked upon.
func TestExposed(t *testing.T) {
	path := write(t, good)
	dir := filepath.Dir(path)
	for name, mode := range map[string]os.FileMode{"secrets/vault.key": 0o640, "pool-a.password": 0o644, "agents.key": 0o606, "xvp.password": 0o604} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("x"), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"groups.dhcp-a.members[1].ssh.key: everybody may open " + dir + "/agents.key (mode 0606): chmod o= " + dir + "/agents.key",
		"groups.xvp-a.accounts.pool-a.password: everybody may open " + dir + "/xvp.password (mode 0604): chmod o= " + dir + "/xvp.password",
		"pools.pool-a.xenapi.password: everybody may open " + dir + "/pool-a.password (mode 0644): chmod o= " + dir + "/pool-a.password",
	}
	if diff := cmp.Diff(want, c.Exposed()); diff != "" {
		t.Error(diff)
	}
}

// A pool's members have a certificate each.
func TestPins(t *testing.T) {
	a, b := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for text, want := range map[string][]string{a: {a}, "[" + a + ", " + b + "]": {a, b}} {
		c, err := Load(write(t, strings.Replace(good, "ca_file: ca.pem", "pin_sha256: "+text, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, []string(c.Pools[0].XenAPI.PinSHA256)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"queue", "pools", "groups", "vault_key"}
	for word, want := range map[string]string{"quue": "queue", "pool": "pools", "vaultkey": "vault_key", "": "queue"} {
		if got := Nearest(word, words); got != want {
			t.Errorf("nearest of %q is %q, want %q", word, got, want)
		}
	}
	if got := Nearest("x", nil); got != "" {
		t.Errorf("nearest of nothing is %q", got)
	}
}

func TestGuard(t *testing.T) {
	for text, want := range map[string]map[string]int{
		"state_dir: state":                         {"uninstall": 100, "suspend": 250},
		"guard: {uninstalls: 7}":                   {"uninstall": 7, "suspend": 250},
		"guard: {uninstalls: -1, suspensions: 3}":  {"suspend": 3},
		"guard: {uninstalls: -1, suspensions: -1}": {},
	} {
		c, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Guard.Limits(); !maps.Equal(got, want) || c.Guard.Window != 10*time.Minute {
			t.Errorf("%s: %v within %s", text, got, c.Guard.Window)
		}
	}
}
