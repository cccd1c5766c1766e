package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/workers/postinstall"
)

// appliance is a machine of the site with a network, mounts and process ids of its own, and what deploy/ and docs/operations.md put on one:
// an account whose one key may do one thing, by one line of sudoers. This machine's accounts and files are not touched: the appliance sees
// its own over them.
type appliance struct {
	t       *testing.T
	ns      *testnet.Namespace
	dir     string
	address string // where its sshd listens
	process *testnet.Process
	key     string // private, of whoever may apply
	hostKey string // public
}

// bootAppliance is process 1 of an appliance. As bash it collects the daemons that an agent leaves behind.
const bootAppliance = `
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t proc proc /proc
mount -t overlay -o "lowerdir=$1/etc:/etc" etc /etc
mount -t overlay -o "lowerdir=$1/bin:/usr/bin" bin /usr/bin
while :; do # as systemd would: one that was killed is started again, once it may
  code=0
  /usr/sbin/sshd -D -e -f "$1/sshd_config" || code=$?
  (( code == 137 )) || exit $code
  while [[ -e $1/sshd.down ]]; do sleep 0.05; done
done &
if [[ -e $1/agent.sh ]]; then # as systemd would: the agent is started again when it ends, and services are started at its word; a test kills it
  while :; do
    "$1/agent.sh" >>"$1/agent.log" 2>&1 & agent=$!
    while kill -0 $agent 2>/dev/null; do
      if [[ -e $1/kill ]]; then kill -9 $agent; rm "$1/kill"; fi
      if [[ -e $1/start ]]; then rm "$1/start"; "$1/start.sh" & fi
      sleep 0.05
    done
    wait $agent || true
  done &
fi
while :; do wait -n || true; [[ -n $(jobs -r) ]] || exit 1; done
`

// newAppliance boots one whose agent has the units that are given as YAML.
func newAppliance(t *testing.T, ns *testnet.Namespace, address, program, units string, l *onBroker) *appliance {
	t.Helper()
	for _, tool := range []string{"sshd", "sudo", "unshare", "mount", "bash"} {
		testenv.Need(t, tool)
	}
	a := &appliance{t: t, ns: ns, dir: t.TempDir(), address: address}
	host, hostLine, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, line, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key, a.hostKey = key.Reveal(), hostLine
	a.write("host_key", host.Reveal(), 0o600)
	a.write("agent.yaml", "state_dir: "+a.path("state")+"\nunits:\n"+strings.ReplaceAll(units, "$DIR", a.dir)+l.attach(a, program), 0o600)
	a.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nslipway:x:990:990::/:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n", 0o644)
	a.write("etc/group", "root:x:0:\ntty:x:5:\nslipway:x:990:\nnogroup:x:65534:\n", 0o644)
	a.write("etc/shadow", "root:!:20000::::::\nsshd:!:20000::::::\nslipway:*:20000:0:99999:7:::\nnobody:!:20000::::::\n", 0o600)
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	a.write("etc/hosts", "127.0.0.1 localhost "+name+"\n", 0o644) // sudo looks for it
	a.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n", 0o644)
	sudoers, err := os.ReadFile("../deploy/sudoers.d-slipway")
	if err != nil {
		t.Fatal(err)
	}
	a.write("etc/sudoers.d/slipway", string(sudoers), 0o440)
	// The line for authorized_keys is the one that stands there.
	options := regexp.MustCompile(`(?m)^#\s+(restrict,command=".*") ssh-ed25519 AAAA`).FindSubmatch(sudoers)
	if options == nil {
		t.Fatal("deploy/sudoers.d-slipway shows no line for authorized_keys")
	}
	a.write("etc/slipway/authorized_keys", fmt.Sprintf("%s %s\n", options[1], strings.TrimSpace(line)), 0o644)
	for link, target := range map[string]string{"etc/slipway/agent.yaml": a.path("agent.yaml"), "bin/slipway": program} {
		if err := os.MkdirAll(filepath.Dir(a.path(link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, a.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	a.write("sshd_config", strings.Join([]string{
		"ListenAddress " + address + ":22", "HostKey " + a.path("host_key"), "AuthorizedKeysFile /etc/slipway/authorized_keys",
		"PermitRootLogin no", "AllowUsers slipway", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "UseDNS no",
		"StrictModes no", "PidFile none", "MaxStartups 100", "",
	}, "\n"), 0o600)
	return a
}

// boot starts it, once its files are complete.
func (a *appliance) boot() {
	a.t.Helper()
	a.process = a.ns.Start("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-c", bootAppliance, "appliance", a.dir)
	testnet.Until(a.t, 20*time.Second, "the appliance's sshd to listen", func() bool {
		select {
		case <-a.process.Done():
			a.t.Fatalf("the appliance ended at its boot:\n%s", a.process.Output())
		default:
		}
		return strings.Contains(a.process.Output(), "Server listening on ")
	})
}

func (a *appliance) path(name string) string { return filepath.Join(a.dir, name) }

func (a *appliance) write(name, text string, mode os.FileMode) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(a.path(name)), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.path(name), []byte(text), mode); err != nil {
		a.t.Fatal(err)
	}
}

// read is a file of the appliance, "" while it is not there.
func (a *appliance) read(name string) string {
	a.t.Helper()
	text, err := os.ReadFile(a.path(name))
	if err != nil && !os.IsNotExist(err) {
		a.t.Fatal(err)
	}
	return string(text)
}

// The files of the three appliances.
const (
	hostsFile   = "hosts.conf"
	rulesFile   = "rules.v4"
	consoleFile = "slipway.conf"
	dhcpdLog    = "dhcpd.log"
)

// newDHCP is a dhcpd that answers known machines only, though each subnet has a range: the range is what an unknown one would get.
func newDHCP(t *testing.T, ns *testnet.Namespace, address, program string, pools []*pool, l *onBroker) *appliance {
	t.Helper()
	dhcpd := testenv.Need(t, "dhcpd")
	start := "$DIR/start.sh"
	if l != nil {
		start = "touch, $DIR/start" // a service is not started inside of the agent's own
	}
	a := newAppliance(t, ns, address, program, "  dhcp: {driver: isc-dhcpd, main: $DIR/dhcpd.conf, include: $DIR/"+hostsFile+", dhcpd: "+dhcpd+
		", pid_file: $DIR/dhcpd.pid, start: ["+start+"], log: [tail, -c, 1000000, $DIR/"+dhcpdLog+"]}\n", l.named("dhcp"))
	var main strings.Builder
	main.WriteString("authoritative;\ndefault-lease-time 600;\nshared-network machines {\n")
	for _, p := range pools {
		fmt.Fprintf(&main, "  subnet %s netmask 255.255.240.0 {\n    option routers %s;\n    range %s %s;\n    deny unknown-clients;\n  }\n",
			p.private.Addr(), p.at(p.private, 0, 1), p.at(p.private, 15, 1), p.at(p.private, 15, 9))
	}
	fmt.Fprintf(&main, "}\ninclude %q;\n", a.path(hostsFile))
	a.write("dhcpd.conf", main.String(), 0o644)
	a.write(hostsFile, "", 0o644)
	a.write("leases", "", 0o644)
	// While the file hold is there, a start that was asked for does not happen; the file held says that one waits.
	a.write("start.sh", fmt.Sprintf("#!/bin/sh\nn=0; while [ -e %[1]s/hold ] && [ $n -lt 200 ]; do : >%[1]s/held; n=$((n+1)); sleep 0.05; done\n", a.dir)+fmt.Sprintf("setsid %s -4 -f -d -user root -group root -cf %s -lf %s -pf %s lan </dev/null >>%s 2>&1 &\n",
		dhcpd, a.path("dhcpd.conf"), a.path("leases"), a.path("dhcpd.pid"), a.path(dhcpdLog)), 0o755)
	a.boot()
	return a
}

// restarts counts dhcpd's starts in its own log.
func (a *appliance) restarts() int {
	return strings.Count(a.read(dhcpdLog), "Internet Systems Consortium DHCP Server")
}

// newFirewall forwards nothing by itself, and has a chain of somebody else's.
func newFirewall(t *testing.T, ns *testnet.Namespace, address, program string, arp bool, l *onBroker) *appliance {
	t.Helper()
	for _, tool := range []string{"iptables-save", "iptables-restore", "conntrack"} {
		testenv.Need(t, tool)
	}
	announce := ""
	if arp {
		announce = ", announce: {interface: wan}"
	}
	a := newAppliance(t, ns, address, program, "  firewall: {driver: iptables, rules: $DIR/"+rulesFile+", state: $DIR/firewall, revert_after: 1m"+announce+"}\n", l.named("firewall"))
	for _, rule := range []string{"-P FORWARD DROP", "-N SITE", "-A SITE -p udp --dport 123 -j ACCEPT", "-A FORWARD -j SITE",
		"-t nat -N SITE", "-t nat -A SITE -s 172.16.0.0/12 -j MASQUERADE", "-t nat -A POSTROUTING -j SITE"} {
		ns.MustRun(append([]string{"iptables"}, strings.Fields(rule)...)...)
	}
	a.boot()
	return a
}

// foreign is what of the running rules is not slipway's, without counters.
func (a *appliance) foreign() string {
	var b strings.Builder
	for line := range strings.Lines(a.ns.MustRun("iptables-save")) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "SLIPWAY") {
			line, _, _ = strings.Cut(line, " [")
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return b.String()
}

// newConsoles is a host with the stand-in for xvp, which fetches consoles from a pool; from none it serves a picture.
func newConsoles(t *testing.T, ns *testnet.Namespace, address, program, pool string, l *onBroker) *appliance {
	t.Helper()
	start := []string{program, "sim", "xvp", "-c", "$DIR/" + consoleFile, "-p", "$DIR/xvp.pid", "-l", "$DIR/xvp.log", "-listen", address}
	if pool != "" {
		start = append(start, "-xenapi", pool)
	}
	for i, word := range start {
		start[i] = strconv.Quote(word)
	}
	a := newAppliance(t, ns, address, program, fmt.Sprintf("  console: {driver: xvp, target: $DIR/%s, program: %s, pid_file: $DIR/xvp.pid, start: [%s]}\n",
		consoleFile, program, strings.Join(start, ", ")), l.named("console"))
	a.boot()
	return a
}
