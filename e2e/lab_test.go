package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"slipway/internal/api"
	"slipway/internal/guestimage"
	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/internal/testscreen"
	"slipway/internal/testserver"
	"slipway/internal/testssh"
	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// What `make lab` says to the test.
const (
	transcriptVar = "SLIPWAY_LAB_TRANSCRIPT" // a file to which each line is written as it comes
	keepVar       = "SLIPWAY_LAB_KEEP"       // "1" leaves all of it up until an interrupt
	debianVar     = "SLIPWAY_LAB_DEBIAN"     // "0" does without the whole Debian, which takes minutes to make
	guestsVar     = "SLIPWAY_LAB_GUESTS"     // "2,4,8": how long so many orders at once take by stage, and nothing else
)

// labLimit is for a machine that does much else: idle, it takes about a minute.
const labLimit = 15 * time.Minute

// transcript is what was looked at, and what was seen.
type transcript struct {
	tb                    *testing.T
	out                   io.Writer
	ready, passed, failed int
}

func newTranscript(t *testing.T) *transcript {
	t.Helper()
	tr := &transcript{tb: t, out: io.Discard}
	if path := os.Getenv(transcriptVar); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		tr.out = f
	}
	return tr
}

func (tr *transcript) say(format string, args ...any) {
	fmt.Fprintf(tr.out, format+"\n", args...)
}

// check is one line: what was looked at, whether it is as it should be, and what was seen in either case.
func (tr *transcript) check(what string, ok bool, seen string, args ...any) {
	tr.tb.Helper()
	line := fmt.Sprintf("%s: %s", what, strings.TrimSpace(fmt.Sprintf(seen, args...)))
	if ok {
		tr.passed++
		tr.say("  ok    %s", line)
		return
	}
	tr.failed++
	tr.say("  FAIL  %s", line)
	tr.tb.Error(line)
}

// labMachine is an order, and what became of it.
type labMachine struct {
	api.Machine
	key      string // of its customer
	host     string // ordered hostname
	template string // its image's public host key, which must not be its own
}

func (m *labMachine) public() string { return m.Placement.Public.String() }

// lab is a site whose guests are real.
type lab struct {
	*site
	*transcript
	ctx    context.Context
	worker *worker
	broker string // as a panel reaches it
	images map[string]guestimage.Image
}

// newLab starts one whose pool has these kinds of guests for images, by image; a guest that does not answer within boot is given up, 0 is the
// default.
func newLab(t *testing.T, kinds map[string]string, boot time.Duration) *lab {
	t.Helper()
	real := map[string]guestimage.Image{}
	for image, kind := range kinds {
		real[image] = guestimage.Get(t, kind)
	}
	ctx, cancel := context.WithTimeout(t.Context(), labLimit)
	t.Cleanup(cancel)
	l := &lab{transcript: newTranscript(t), ctx: ctx, broker: testserver.RabbitMQ(t), images: real}
	l.site = newSite(t, siteConfig{
		pools: 1, strategy: orchestrator.NAT, arp: true, consoles: true, gateway: true, real: real, bootTimeout: boot,
		postgres: testserver.PostgreSQL(t), rabbitmq: l.broker,
	})
	l.patience = fmt.Sprint(labLimit.Seconds())
	l.worker = l.serve("worker")
	return l
}

// order has the panel order machines, all at once, and waits for the end of their runs. The panel's exit codes are returned.
func (l *lab) order(orders ...order) []int {
	l.t.Helper()
	return l.await(l.publish(orders...))
}

// publish has the panel order machines; await waits for the end of their runs.
func (l *lab) publish(orders ...order) (panels []*panel) {
	l.t.Helper()
	for _, o := range orders {
		panels = append(panels, l.panel(l.ctx, l.broker, o))
	}
	return panels
}

func (l *lab) await(panels []*panel) (codes []int) {
	l.t.Helper()
	for _, p := range panels {
		<-p.done
		if l.ctx.Err() != nil {
			l.t.Fatalf("not done in time:\n%s", p.out.String())
		}
		codes = append(codes, p.cmd.ProcessState.ExitCode())
	}
	return codes
}

// orders are of an image, one for each host and with a customer each; what will become of them is in the list before.
func (l *lab) orders(image string, first int, hosts ...string) (machines []labMachine, orders []order) {
	l.t.Helper()
	for i, host := range hosts {
		key, line := keyPair(l.t)
		machines = append(machines, labMachine{key: key, host: host, template: strings.TrimSpace(l.images[image].HostKey)})
		orders = append(orders, labOrder(first+i, image, host, line))
	}
	return machines, orders
}

// made looks at the end of an order's run.
func (l *lab) made(m *labMachine, code int, since time.Time) {
	l.t.Helper()
	m.Machine = l.machine(strings.SplitN(m.host, ".", 2)[0])
	l.check(m.Name+" is ordered and made", code == 0 && m.State == "production_ready", "the panel heard that it is %s, %s after the order", m.State, time.Since(since).Round(time.Second))
	if m.State != "production_ready" {
		l.t.Fatalf("explain: %s", l.cli("worker", "explain", m.Name))
	}
	l.ready++
	l.say("        %s", timing(m.Machine))
}

// labOrder orders a machine as small as they come.
func labOrder(n int, kind, host, key string) order {
	o := install(n, key)
	data := o["data"].(map[string]any)
	data["image"], data["hostname"], data["name"] = kind, host, strings.SplitN(host, ".", 2)[0]
	data["plan"] = map[string]any{"vcpus": 1, "memory_mib": 256, "disk_gib": 2}
	return o
}

// machine reads what became of an order.
func (l *lab) machine(name string) (m api.Machine) {
	l.t.Helper()
	if err := json.Unmarshal([]byte(l.cli("worker", "-o", "json", "show", name)), &m); err != nil {
		l.t.Fatal(err)
	}
	return m
}

// run has a machine's customer run a command there, from the outside.
func (l *lab) run(m labMachine, command string) (out, hostKey string, err error) {
	l.t.Helper()
	return testssh.Run(l.ctx, l.customer, m.key, m.public(), command)
}

// Two orders over a broker become two machines, each booted by a kernel of its own, that have an address of the real dhcpd, are reached through the
// real firewall, were set up over their own sshd, and are seen and typed into in the browser's way. A third, which boots while they are looked
// at, is a whole Debian with systemd, for which the catalogue's debian entry was written. `make lab` is this test, told aloud and without
// the third.
//
// It is not run beside other tests: emulated guests take all the processors there are.
func TestLab(t *testing.T) {
	if counts := os.Getenv(guestsVar); counts != "" {
		labFigures(t, counts)
		return
	}
	identity, network := testguest.Identity(t), machineNetwork(t)
	kinds := map[string]string{guestimage.Lab: guestimage.Lab}
	whole := os.Getenv(debianVar) != "0"
	if whole {
		kinds[guestimage.Debian] = guestimage.Debian
	}
	l := newLab(t, kinds, 0)
	l.say("lab: namespaces for the outside, a firewall, a DHCP server, a console host, a hypervisor (guests by QEMU, emulated); RabbitMQ, PostgreSQL, slipway serve")
	machines, orders := l.orders(guestimage.Lab, 1, "web-1.acme.example", "web-2.acme.example")
	began := time.Now()
	small := l.publish(orders...)
	l.say("lab: two orders are published")
	var debian []labMachine
	var large []*panel
	if whole {
		debian, orders = l.orders(guestimage.Debian, 3, "mail-1.acme.example")
		large = l.publish(orders...)
		l.say("lab: and one for a whole Debian 12")
	}
	codes := l.await(small)
	for i := range machines {
		l.made(&machines[i], codes[i], began)
	}
	for i, m := range machines {
		l.proveAlone(m, i)
	}
	l.proveNothingShared(machines[0], machines[1])
	l.proveScreen(machines[0])
	l.proveReboot(machines[0])
	for i, code := range l.await(large) {
		l.made(&debian[i], code, began)
		l.proveDebian(debian[i])
	}
	machines = append(machines, debian...)
	l.agreed("pools, appliances and the database agree", len(machines))
	if os.Getenv(keepVar) == "1" {
		l.summary()
		l.keep(machines)
		return
	}
	l.proveGone(machines[1])
	l.agreed("what is left is whole", len(machines)-1)
	l.check("this machine is as it was", machineNetwork(t) == network && testguest.Identity(t) == identity, "its network, name, accounts and keys")
	l.summary()
}

// agreed counts what there is of so many machines.
func (l *lab) agreed(what string, n int) {
	l.t.Helper()
	was := l.t.Failed()
	l.counted(n)
	l.check(what, was || !l.t.Failed(), "of VMs, host blocks, DNAT rules and console lines there are %d each, and nothing more", n)
}

func (l *lab) summary() {
	l.say("lab: %d production_ready, %d checks passed, %d failed", l.ready, l.passed, l.failed)
}

var acknowledgedTo = regexp.MustCompile(`DHCPACK on (\S+) to (\S+)`)

// proveAlone is what a customer has of one machine.
func (l *lab) proveAlone(m labMachine, n int) {
	l.t.Helper()
	l.say("%s, %s, behind %s:", m.Name, m.Placement.Private, m.public())
	var leased []string
	for _, ack := range acknowledgedTo.FindAllStringSubmatch(l.dhcp.read(dhcpdLog), -1) {
		if ack[2] == m.Placement.MAC && !slices.Contains(leased, ack[1]) {
			leased = append(leased, ack[1])
		}
	}
	l.check("dhcpd gave its MAC one address", slices.Equal(leased, []string{m.Placement.Private.String()}), "%s has %v", m.Placement.MAC, leased)

	out, key, err := l.run(m, "hostname")
	l.check("SSH from the outside, as the customer", err == nil, "%s%v", out, orNothing(err))
	l.check("its name", out == m.host+"\n", "%s", out)
	l.check("its host key is the one that slipway made for it", key != "" && strings.HasPrefix(m.HostKey, key) && key != m.template, "%s", clipped(key))

	_, _, err = testssh.Run(l.ctx, l.customer, l.login, m.public(), "true")
	l.check("the installer's key opens nothing any more", err != nil, "%v", err)

	port := 8080 + n
	_, _, err = l.run(m, fmt.Sprintf("setsid sh -c 'while :; do echo open | busybox nc -l -p %d; done' >/dev/null 2>&1 </dev/null &", port))
	private := net.JoinHostPort(m.Placement.Private.String(), fmt.Sprint(port))
	if err != nil {
		l.check("a service is started", false, "%v", err)
	}
	testnet.Until(l.t, 3*time.Minute, private+" to answer in the machines' network", func() bool {
		_, err := listening(l.dhcp.ns, private, time.Second)
		return err == nil
	})
	var timeout net.Error
	words, err := listening(l.customer, net.JoinHostPort(m.public(), fmt.Sprint(port)), 2*time.Second)
	l.check(fmt.Sprintf("port %d, on which it listens, is silent outside", port), errors.As(err, &timeout) && timeout.Timeout(), "%q, %v", words, err)

	seen := l.sourceOf(m)
	l.check("the outside sees it come from its public address", seen == m.public(), "%s", seen)
}

func orNothing(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func clipped(key string) string {
	fields := strings.Fields(key)
	if len(fields) < 2 {
		return key
	}
	return fields[0] + " …" + fields[1][max(0, len(fields[1])-12):]
}

// sourceOf has a machine call on a customer, who tells from where.
func (l *lab) sourceOf(m labMachine) string {
	l.t.Helper()
	var listener net.Listener
	var err error
	l.customer.Do(func() { listener, err = net.Listen("tcp4", customerAddress+":0") })
	if err != nil {
		return err.Error()
	}
	defer listener.Close()
	_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	seen := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			seen <- err.Error()
			return
		}
		defer conn.Close()
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		seen <- host
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	if out, _, err := l.run(m, fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%d'", customerAddress, port)); err != nil {
		_ = listener.Close()
		<-seen
		return fmt.Sprintf("it cannot call out: %v: %s", err, out)
	}
	return <-seen
}

// proveNothingShared compares two clones of one template.
func (l *lab) proveNothingShared(a, b labMachine) {
	l.t.Helper()
	l.say("%s beside %s:", a.Name, b.Name)
	ask := func(m labMachine, command string) string {
		out, _, err := l.run(m, command)
		if err != nil {
			return fmt.Sprintf("%s: %v", m.Name, err)
		}
		return strings.TrimSpace(out)
	}
	idA, idB := ask(a, "cat /etc/machine-id"), ask(b, "cat /etc/machine-id")
	l.check("machine ids differ, and are the recorded ones", idA == a.Identity && idB == b.Identity && idA != idB && idA != testguest.TemplateMachineID, "%s, %s", idA, idB)
	keysA, keysB := ask(a, "cat /etc/ssh/ssh_host_*_key.pub"), ask(b, "cat /etc/ssh/ssh_host_*_key.pub")
	l.check("host keys differ, and the template's are gone", keysA != keysB && strings.Count(keysA, "\n") == 0 && !strings.Contains(keysA+keysB, a.template), "%s, %s", clipped(keysA), clipped(keysB))
	bootA, bootB := ask(a, "cat /proc/sys/kernel/random/boot_id"), ask(b, "cat /proc/sys/kernel/random/boot_id")
	l.check("each has a kernel of its own", bootA != bootB && len(bootA) == 36, "boots %s, %s", bootA, bootB)
	ask(a, "echo mine >/root/mine; sync")
	left := ask(b, "ls /root/mine 2>&1; true")
	l.check("what one writes the other does not have", strings.Contains(left, "No such file"), "%s", left)
	size := ask(a, "df --output=size -BM / | tail -1; lsblk -bdno SIZE /dev/vda")
	var root, disk int64
	_, _ = fmt.Sscan(strings.ReplaceAll(size, "M", ""), &root, &disk)
	l.check("its root has grown to the ordered disk", root > 1700 && disk == 2<<30, "%d MB on a disk of %d bytes", root, disk)
	_, _, err := testssh.Run(l.ctx, l.customer, a.key, b.public(), "true")
	l.check("one customer's key does not open the other's machine", err != nil, "%v", err)
}

// link asks for a way to a machine's screen.
func (l *lab) link(m labMachine) string {
	l.t.Helper()
	var link api.ConsoleLink
	if err := json.Unmarshal([]byte(l.cli("worker", "-o", "json", "console", "open", m.Name)), &link); err != nil {
		l.t.Fatal(err)
	}
	return link.URL
}

// enter is what the page does with a link: its token becomes a session.
func enter(ctx context.Context, client *http.Client, link string) (base string, status int, err error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", 0, err
	}
	token := u.Fragment
	u.Fragment = ""
	base = u.String()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"session", strings.NewReader(fmt.Sprintf(`{"token": %q}`, token)))
	if err != nil {
		return "", 0, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", 0, err
	}
	return base, answer.StatusCode, answer.Body.Close()
}

// keepSecret has the search look for what opens a machine's screen: the link's token, and the session's cookie.
func (l *lab) keepSecret(m labMachine, link string, jar http.CookieJar) {
	l.t.Helper()
	u, err := url.Parse(link)
	if err != nil || u.Fragment == "" {
		l.t.Fatalf("the link has no token: %v", err)
	}
	l.given = map[string]string{"console token of " + m.ID: u.Fragment}
	for _, cookie := range jar.Cookies(u) {
		l.given["console cookie of "+m.ID] = cookie.Value
	}
	if len(l.given) != 2 {
		l.t.Errorf("a session has %d cookies, want one", len(l.given)-1)
	}
}

// proveScreen looks at a machine's screen and types, by a link as a browser does.
func (l *lab) proveScreen(m labMachine) {
	t := l.t
	t.Helper()
	l.say("the screen of %s, by the gateway:", m.Name)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	link := l.link(m)
	base, status, err := enter(l.ctx, client, link)
	l.check("a link opens", err == nil && status == http.StatusOK, "HTTP %d", status)
	l.keepSecret(m, link, jar)
	_, again, err := enter(l.ctx, client, link)
	l.check("once", err == nil && again == http.StatusUnauthorized, "HTTP %d the second time", again)
	socketClient := *client
	socketClient.Timeout = 0 // the connection stays
	ws, _, err := websocket.Dial(l.ctx, base+"socket", &websocket.DialOptions{HTTPClient: &socketClient, Subprotocols: []string{"binary"}})
	if err != nil {
		l.check("the screen's socket", false, "%v", err)
		return
	}
	defer ws.CloseNow() //nolint:errcheck // nothing is left to be done about it
	ws.SetReadLimit(-1)
	conn := websocket.NetConn(l.ctx, ws, websocket.MessageBinary)
	defer conn.Close()
	screen, err := rfb.OpenScreen(l.ctx, conn, orchestrator.Secret{})
	if err != nil {
		l.check("the screen", false, "%v", err)
		return
	}
	before, err := screen.Look(l.ctx)
	l.check("it shows the guest's picture", err == nil && rfb.Lit(before) > 0, "%d by %d pixels, %d of 1000 lit, %v", screen.Width, screen.Height, rfb.Lit(before), err)
	word := "typed-" + m.ID[:8]
	if err := testscreen.Type(l.ctx, conn, "echo "+word+" > /root/typed\n"); err != nil {
		l.check("typing", false, "%v", err)
		return
	}
	seen := ""
	testnet.Until(t, 2*time.Minute, "what was typed to be done", func() bool {
		seen, _, _ = l.run(m, "cat /root/typed")
		return seen == word+"\n"
	})
	l.check("it takes keys: a file that was written by typing", true, "/root/typed has %s", seen)
	after, err := screen.Look(l.ctx)
	l.check("and shows them", err == nil && rfb.Changed(before, after) > 0, "%d of 1000 pixels are others, %v", rfb.Changed(before, after), err)
}

// proveReboot looks whether what was installed is on the disk.
func (l *lab) proveReboot(m labMachine) {
	t := l.t
	t.Helper()
	boot, _, err := l.run(m, "cat /proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = l.run(m, "reboot") // the connection may break first
	var out, key string
	testnet.Until(t, 10*time.Minute, m.Name+" to be back", func() bool {
		out, key, err = l.run(m, "cat /proc/sys/kernel/random/boot_id; hostname; cat /etc/machine-id /root/mine")
		return err == nil && !strings.HasPrefix(out, boot)
	})
	want := fmt.Sprintf("%s\n%s\nmine\n", m.host, m.Identity)
	l.check("after a restart from inside it is the same machine", strings.HasSuffix(out, want) && strings.HasPrefix(m.HostKey, key), "%s", strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "))
}

// proveGone orders a machine away.
func (l *lab) proveGone(m labMachine) {
	t := l.t
	t.Helper()
	l.say("%s is ordered away:", m.Name)
	running := l.guestsOf(m.VM)
	codes := l.order(newOrder("order-leave", "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": m.ID}))
	l.check("its run ends", codes[0] == 0, "the panel ended with %d", codes[0])
	l.check("its process is gone", running == 1 && l.guestsOf(m.VM) == 0, "%d before, %d now", running, l.guestsOf(m.VM))
	words, err := listening(l.customer, net.JoinHostPort(m.public(), "22"), time.Second)
	l.check("its address is silent", err != nil, "%q, %v", words, err)
}

// keep leaves all of it up, and says what to try.
func (l *lab) keep(machines []labMachine) {
	t := l.t
	t.Helper()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config := filepath.Join(l.dir, "worker.yaml")
	l.say("\nThe lab is up. Try:\n")
	for _, m := range machines {
		file := filepath.Join(l.dir, m.Name+".key")
		if err := os.WriteFile(file, []byte(m.key), 0o600); err != nil {
			t.Fatal(err)
		}
		l.say("  nsenter --net=%s ssh -i %s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@%s   # %s, as its customer", l.customer.Path(), file, m.public(), m.Name)
	}
	verb := func(args, about string) { l.say("  %-60s # %s", l.program+" --config "+config+" "+args, about) }
	verb("console open "+machines[0].Name, "a link that opens once, in a browser on this machine")
	verb("list", "")
	verb("show "+machines[0].Name, "")
	verb("watch --all", "")
	verb("plan", "what appliances have, and should have")
	l.say("\nCtrl-C takes it down (or: kill %d); nothing of it is left then.", os.Getpid())
	<-ctx.Done()
	l.say("\nlab: taken down")
}

// An image that is a text file makes a VM that runs and a guest that does not: its run is given up, and what can be seen is told.
func TestLabDeadImage(t *testing.T) {
	t.Parallel() // nothing runs in its guest, and it waits
	l := newLab(t, map[string]string{guestimage.Lab: guestimage.Text}, 20*time.Second)
	_, line := keyPair(t)
	codes := l.order(labOrder(1, "lab", "dead-1.acme.example", line))
	m := l.machine("dead-1")
	l.check("the panel hears that its run is parked", codes[0] == 2, "it ended with %d", codes[0])
	l.check("its run is parked at await_guest", m.State == "started" && m.Runs[0].Step == "await_guest", "state %s, step %s: %s", m.State, m.Runs[0].Step, m.Runs[0].Reason)
	log := l.dhcp.read(dhcpdLog)
	l.check("dhcpd has not heard of its MAC", !strings.Contains(log, m.Placement.MAC), "%s", m.Placement.MAC)
	neighbours := l.fw.MustRun("ip", "neighbour", "show", m.Placement.Private.String())
	l.check("the firewall has no neighbour there", !strings.Contains(neighbours, "lladdr"), "%s", cmp.Or(strings.TrimSpace(neighbours), "none"))
	wants := []string{
		"waited longer than 20s", "dhcp-1 has heard nothing of " + m.Placement.MAC, "no agent in the guest has reported", "no such neighbour",
		"its screen (720 by 400) stands still", "the guest is dead",
	}
	said := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("explain said: %s", said)
		}
	})
	testnet.Until(t, 2*time.Minute, "its BIOS to have given up, and explain to say all", func() bool {
		said = l.cli("worker", "explain", "dead-1")
		return !slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(said, want) })
	})
	for _, want := range wants {
		line := said
		if i := strings.Index(said, want); i >= 0 {
			line, _, _ = strings.Cut(said[i:], "\n")
		}
		l.check("explain", strings.Contains(said, want), "%s", line)
	}
}
