package qemu_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"image"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"slipway/internal/guestimage"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testscreen"
	"slipway/internal/testssh"
	"slipway/orchestrator"
	"slipway/sim/qemu"
	simxapi "slipway/sim/xapi"
	"slipway/workers/console/rfb"
	"slipway/workers/hypervisor/xapi"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// bootLimit is generous: guests are emulated, and tests run beside each other.
const bootLimit = 5 * time.Minute

// site is a pool whose guests are real, on a bridge with a real DHCP server.
type site struct {
	t       *testing.T
	ns      *testnet.Namespace
	hv      *qemu.Hypervisor
	client  *xapi.Client
	address string // the pool's
	dir     string
}

func newSite(t *testing.T, images map[string]string) *site {
	t.Helper()
	lab := testnet.New(t)
	s := &site{t: t, ns: lab.Namespace("hypervisor"), dir: t.TempDir()}
	s.ns.MustRun("ip", "link", "add", "xenbr0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	s.ns.MustRun("ip", "link", "set", "xenbr0", "up")
	s.ns.MustRun("ip", "address", "add", "192.0.2.1/24", "dev", "xenbr0")
	var err error
	s.hv, err = qemu.New(t.Context(), qemu.Config{Dir: s.dir, Images: images, Namespace: s.ns.Path(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var templates []simxapi.Template
	for name := range images {
		templates = append(templates, simxapi.Template{Name: name, Image: name, DiskGiB: 1})
	}
	cert, pin, err := simxapi.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := simxapi.New(simxapi.Config{Password: orchestrator.NewSecret("secret"), HostAddress: "127.0.0.1", SharedSR: true, Templates: templates, Guests: s.hv})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- pool.Serve(ctx, listener, &cert) }()
	s.address = listener.Addr().String()
	s.client, err = xapi.New(xapi.Config{Addresses: []string{"https://" + s.address}, User: "root", Password: orchestrator.NewSecret("secret"), PinSHA256: []string{pin}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.client.Close(context.Background())
		cancel()
		pool.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
			t.Errorf("left in the folder of disks: %v, %v", left, err)
		}
		if links := s.ns.MustRun("ip", "-o", "link", "show", "type", "tun"); links != "" {
			t.Errorf("taps are left: %s", links)
		}
	})
	return s
}

func (s *site) call(result any, method string, args ...any) {
	s.t.Helper()
	if err := s.client.Call(s.t.Context(), method, result, args...); err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
}

// clone makes a VM of a template with one interface; it is halted.
func (s *site) clone(template, name, mac string) xapi.Ref {
	s.t.Helper()
	var found []xapi.Ref
	s.call(&found, "VM.get_by_name_label", template)
	var vm xapi.Ref
	s.call(&vm, "VM.clone", found[0], name)
	var vifs []xapi.Ref
	s.call(&vifs, "VM.get_VIFs", vm)
	var record map[string]any
	s.call(&record, "VIF.get_record", vifs[0])
	s.call(nil, "VIF.destroy", vifs[0])
	s.call(nil, "VIF.create", map[string]any{
		"device": "0", "network": record["network"], "VM": string(vm), "MAC": mac, "MTU": "1500", "other_config": map[string]any{},
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]any{},
	})
	s.call(nil, "VM.provision", vm)
	return vm
}

// dhcpd serves the bridge for the MACs and addresses given.
func (s *site) dhcpd(hosts map[string]string) *testnet.Process {
	s.t.Helper()
	testenv.Need(s.t, "dhcpd")
	dir := s.t.TempDir()
	var b strings.Builder
	b.WriteString("authoritative; ddns-update-style none;\nsubnet 192.0.2.0 netmask 255.255.255.0 { option routers 192.0.2.1; deny unknown-clients; }\n")
	for mac, address := range hosts {
		fmt.Fprintf(&b, "host h%s { hardware ethernet %s; fixed-address %s; }\n", strings.ReplaceAll(mac, ":", ""), mac, address)
	}
	config, leases := filepath.Join(dir, "dhcpd.conf"), filepath.Join(dir, "leases")
	for name, text := range map[string]string{config: b.String(), leases: ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.ns.Start("dhcpd", "-4", "-f", "-d", "-user", "root", "-group", "root", "-cf", config, "-lf", leases, "-pf", filepath.Join(dir, "pid"), "xenbr0")
}

// networks is what the agent in a guest reports of its interfaces.
func (s *site) networks(vm xapi.Ref) map[string]string {
	s.t.Helper()
	var metrics xapi.Ref
	s.call(&metrics, "VM.get_guest_metrics", vm)
	if metrics.IsNull() {
		return nil
	}
	var networks map[string]string
	if err := s.client.Call(s.t.Context(), "VM_guest_metrics.get_networks", &networks, metrics); err != nil {
		return nil // replaced by a boot
	}
	return networks
}

func (s *site) power(vm xapi.Ref) (state string) {
	s.t.Helper()
	s.call(&state, "VM.get_power_state", vm)
	return state
}

// ssh runs a command in a guest; the host key is told.
func (s *site) ssh(image guestimage.Image, address, command string) (out, hostKey string, err error) {
	s.t.Helper()
	return testssh.Run(s.t.Context(), s.ns, image.LoginKey, address, command)
}

func (s *site) mustSSH(image guestimage.Image, address, command string) string {
	s.t.Helper()
	out, _, err := s.ssh(image, address, command)
	if err != nil {
		s.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

// answers tries to connect.
func (s *site) answers(address string, limit time.Duration) (ok bool) {
	s.ns.Do(func() {
		conn, err := net.DialTimeout("tcp4", address, limit)
		if ok = err == nil; ok {
			_ = conn.Close()
		}
	})
	return ok
}

// screen opens a VM's console at the pool, by a WebSocket.
func (s *site) screen(vm xapi.Ref) (*rfb.Screen, net.Conn) {
	s.t.Helper()
	var uuid string
	s.call(&uuid, "VM.get_uuid", vm)
	ctx := s.t.Context()
	ws, _, err := websocket.Dial(ctx, "wss://root:secret@"+s.address+"/console?uuid="+uuid, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}, //nolint:gosec // our own
		Subprotocols: []string{"binary"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	screen, err := rfb.OpenScreen(s.t.Context(), conn, orchestrator.Secret{})
	if err != nil {
		s.t.Fatal(err)
	}
	return screen, conn
}

func look(t *testing.T, screen *rfb.Screen) *image.RGBA {
	t.Helper()
	picture, err := screen.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// Two clones of one template boot, have what makes them reachable, keep what they write through a reboot and share nothing of it; what they do
// to their own power is seen by the pool.
func TestGuestsBoot(t *testing.T) {
	t.Parallel()
	image := guestimage.Get(t, guestimage.Lab)
	s := newSite(t, map[string]string{"lab": image.Dir})
	addresses := map[string]string{"02:00:00:00:00:2a": "192.0.2.42", "02:00:00:00:00:2b": "192.0.2.43"}
	s.dhcpd(addresses)
	one, two := s.clone("lab", "one", "02:00:00:00:00:2a"), s.clone("lab", "two", "02:00:00:00:00:2b")
	s.call(nil, "VM.start", one, false, false)
	s.call(nil, "VM.start", two, false, false)
	if n := s.networks(one); n != nil {
		t.Errorf("a guest that has just been switched on reports %v", n)
	}
	for vm, address := range map[xapi.Ref]string{one: "192.0.2.42", two: "192.0.2.43"} {
		testnet.Until(t, bootLimit, "the guest's agent to report "+address, func() bool { return s.networks(vm)["0/ip"] == address })
		testnet.Until(t, bootLimit, "the guest's sshd", func() bool {
			_, _, err := s.ssh(image, address, "true")
			return err == nil
		})
	}
	out, key, err := s.ssh(image, "192.0.2.42", "hostname; cat /sys/class/net/eth0/address; echo mine >/root/written; sync")
	if err != nil || out != "template\n02:00:00:00:00:2a\n" || key != strings.TrimSpace(image.HostKey) {
		t.Errorf("%q, %v, host key %q, the template's is %q", out, err, key, image.HostKey)
	}
	if out := s.mustSSH(image, "192.0.2.43", "cat /root/written 2>&1 || true"); !strings.Contains(out, "No such file") {
		t.Errorf("a clone has what its sibling wrote: %q", out)
	}

	t.Run("the screen takes keys", func(t *testing.T) {
		screen, conn := s.screen(one)
		defer conn.Close()
		before := look(t, screen)
		if rfb.Lit(before) == 0 {
			t.Error("the screen is black")
		}
		if err := testscreen.Type(t.Context(), conn, "echo 42 > /root/typed\n"); err != nil {
			t.Fatal(err)
		}
		testnet.Until(t, time.Minute, "what was typed to be done", func() bool {
			out, _, err := s.ssh(image, "192.0.2.42", "cat /root/typed")
			return err == nil && out == "42\n"
		})
		if rfb.Changed(before, look(t, screen)) == 0 {
			t.Error("the screen does not show what was typed")
		}
	})
	t.Run("one that is paused stands still", func(t *testing.T) {
		s.call(nil, "VM.pause", two)
		if state := s.power(two); state != "Paused" || s.answers("192.0.2.43:22", time.Second) {
			t.Errorf("it is %s, and answers", state)
		}
		s.call(nil, "VM.unpause", two)
		testnet.Until(t, bootLimit, "it to answer again", func() bool { return s.answers("192.0.2.43:22", time.Second) })
		if state := s.power(two); state != "Running" {
			t.Errorf("it is %s", state)
		}
	})
	t.Run("reboots keep the disk", func(t *testing.T) {
		const bootID = "cat /proc/sys/kernel/random/boot_id"
		before := map[string]string{"192.0.2.42": s.mustSSH(image, "192.0.2.42", bootID), "192.0.2.43": s.mustSSH(image, "192.0.2.43", "echo mine >/root/written; sync; "+bootID)}
		s.call(nil, "VM.pause", two)
		s.call(nil, "VM.hard_reboot", two) // of a paused one, which runs then
		s.call(nil, "VM.clean_reboot", one)
		for address, boot := range before {
			testnet.Until(t, bootLimit, "the guest to be back", func() bool {
				out, _, err := s.ssh(image, address, bootID)
				return err == nil && out != boot
			})
			if out := s.mustSSH(image, address, "cat /root/written"); out != "mine\n" {
				t.Errorf("after the reboot %s has %q", address, out)
			}
		}
		if state := s.power(two); state != "Running" {
			t.Errorf("after a hard reboot it is %s", state)
		}
	})
	t.Run("a guest switches itself off", func(t *testing.T) {
		_, _, _ = s.ssh(image, "192.0.2.43", "poweroff") // the connection may break first
		testnet.Until(t, bootLimit, "the pool to see it", func() bool { return s.power(two) == "Halted" })
	})
	t.Run("a clean shutdown", func(t *testing.T) {
		testnet.Until(t, bootLimit, "the agent to report again", func() bool { return s.networks(one)["0/ip"] != "" })
		s.call(nil, "VM.clean_shutdown", one)
		if state := s.power(one); state != "Halted" {
			t.Errorf("it is %s", state)
		}
	})
	if out, err := s.ns.Run(t.Context(), "ip", "-o", "link", "show", "type", "tun"); err != nil || out != "" {
		t.Errorf("taps of guests that are off: %s, %v", out, err)
	}
}

// What no processor can boot is a VM that runs, as far as a pool can tell: its screen alone says that nothing came of it.
func TestTextBootsNothing(t *testing.T) {
	t.Parallel()
	image := guestimage.Get(t, guestimage.Text)
	s := newSite(t, map[string]string{"text": image.Dir})
	vm := s.clone("text", "text", "02:00:00:00:00:2c")
	s.call(nil, "VM.start", vm, false, false)
	screen, conn := s.screen(vm)
	defer conn.Close()
	testnet.Until(t, bootLimit, "the BIOS to have written something", func() bool { return rfb.Lit(look(t, screen)) > 0 })
	if state, n := s.power(vm), s.networks(vm); state != "Running" || n != nil {
		t.Errorf("it is %s and reports %v", state, n)
	}
	if err := s.client.Call(t.Context(), "VM.clean_shutdown", nil, vm); !xapi.HasCode(err, "VM_MISSING_PV_DRIVERS") {
		t.Errorf("a clean shutdown: %v", err)
	}
	s.call(nil, "VM.hard_shutdown", vm)
	if state := s.power(vm); state != "Halted" {
		t.Errorf("after a hard shutdown it is %s", state)
	}
}
