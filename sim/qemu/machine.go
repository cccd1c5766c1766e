package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"slipway/sim/xapi"
)

// machine is a guest whose process was started.
type machine struct {
	h     *Hypervisor
	vm    string
	cmd   *exec.Cmd
	qmp   *monitor
	agent *agent
	said  *tail // by QEMU itself
	ended chan struct{}
}

// The first descriptors that a child gets beside its standard ones.
const (
	qmpFD = 3 + iota
	agentFD
	firstTapFD
)

// newMachine starts QEMU with its processors standing still.
func (h *Hypervisor) newMachine(ctx context.Context, d xapi.Domain) (*machine, error) {
	args, err := h.arguments(d)
	if err != nil {
		return nil, err
	}
	control, theirControl, err := pair()
	if err != nil {
		return nil, err
	}
	given := []*os.File{theirControl}
	defer func() {
		for _, f := range given {
			_ = f.Close() // the child has its own
		}
	}()
	talk, theirTalk, err := pair()
	if err != nil {
		_ = control.Close()
		return nil, err
	}
	given = append(given, theirTalk)
	m := &machine{h: h, vm: d.VM, said: &tail{}, ended: make(chan struct{})}
	m.cmd = exec.Command(h.cfg.Program, args...)
	m.cmd.Stdout, m.cmd.Stderr = m.said, m.said
	m.cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // an interrupt from the terminal is the simulator's alone
	err = h.launch.do(func() error {
		for _, vif := range d.VIFs {
			tap, err := newTap(vif.Bridge)
			if err != nil {
				return fmt.Errorf("interface %s: %w", vif.Device, err)
			}
			given = append(given, tap)
		}
		m.cmd.ExtraFiles = given
		return m.cmd.Start()
	})
	if err != nil {
		return nil, errors.Join(err, control.Close(), talk.Close())
	}
	m.agent = newAgent(talk, func(r *xapi.GuestReport) { h.events.GuestReported(d.VM, r) })
	m.qmp = newMonitor(control, m.event)
	return m, nil
}

// arguments is QEMU's command line. What a customer names (the VM) is not in it.
func (h *Hypervisor) arguments(d xapi.Domain) ([]string, error) {
	if len(d.Disks) == 0 {
		return nil, errors.New("the VM has no disk")
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-S", "-machine", "q35", "-m", fmt.Sprint(d.MemoryMiB), "-smp", fmt.Sprint(max(1, d.VCPUs)),
		"-uuid", d.VM, "-name", "slipway-" + d.VM, "-vga", "std", "-display", "vnc=none,share=force-shared", "-monitor", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-serial", "file:" + filepath.Join(h.cfg.Dir, d.VM+".serial"),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-chardev", fmt.Sprintf("socket,id=agent,fd=%d", agentFD),
		"-device", "virtserialport,chardev=agent,id=agent,name=org.qemu.guest_agent.0",
	}
	args = append(args, accelArguments(h.accel)...)
	for i, uuid := range d.Disks {
		path, image, err := h.disks.use(uuid)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			boot, err := bootArguments(h.cfg.Images[image])
			if err != nil {
				return nil, err
			}
			args = append(args, boot...)
		}
		// A pool of the simulator does not outlive a crash of the machine, so nothing waits for its disk.
		args = append(args, "-drive", fmt.Sprintf("file=%s,if=none,id=disk%d,format=qcow2,cache=unsafe,discard=unmap", strings.ReplaceAll(path, ",", ",,"), i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	for i, vif := range d.VIFs {
		if _, err := net.ParseMAC(vif.MAC); err != nil {
			return nil, fmt.Errorf("interface %s: %w", vif.Device, err)
		}
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, firstTapFD+i), "-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, vif.MAC))
	}
	return args, nil
}

// bootArguments are those of an image with a kernel; the BIOS boots the others from their disk.
func bootArguments(dir string) ([]string, error) {
	kernel := filepath.Join(dir, imageKernel)
	if _, err := os.Stat(kernel); dir == "" || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	line, err := os.ReadFile(filepath.Join(dir, imageCmdline))
	if err != nil {
		return nil, err
	}
	return []string{"-kernel", kernel, "-initrd", filepath.Join(dir, imageInitrd), "-append", strings.TrimSpace(string(line))}, nil
}

// begin waits until QEMU is ready, and lets the processors run.
func (m *machine) begin(ctx context.Context, paused bool) error {
	err := m.qmp.run(ctx, "qmp_capabilities", nil)
	if err == nil && !paused {
		err = m.qmp.run(ctx, "cont", nil)
	}
	if err != nil {
		m.kill()
		<-m.ended
		return fmt.Errorf("qemu: %w: %s", err, m.said.last())
	}
	return nil
}

// event is QEMU's own word.
func (m *machine) event(name string, data json.RawMessage) {
	switch name {
	case "RESET":
		var why struct {
			Guest bool `json:"guest"`
		}
		if json.Unmarshal(data, &why) == nil && why.Guest {
			m.h.events.GuestBooted(m.vm)
		}
	case "VSERPORT_CHANGE":
		var port struct {
			Open bool `json:"open"`
		}
		if json.Unmarshal(data, &port) == nil {
			m.agent.attend(port.Open)
		}
	}
}

func (m *machine) kill() { _ = m.cmd.Process.Kill() } // one that has ended takes no signal

func (m *machine) over() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// reap waits for the process's end. gone is called before anybody who waits for the end hears of it.
func (m *machine) reap(gone func()) {
	err := m.cmd.Wait()
	m.agent.close()
	m.qmp.close()
	m.h.log.Info("guest ended", "vm", m.vm, "exit", fmt.Sprint(err), "said", m.said.last())
	gone()
	close(m.ended)
}

// Console implements [xapi.Guests]. The viewer's end is handed to QEMU over its control connection: nobody else can reach the screen.
func (h *Hypervisor) Console(ctx context.Context, vm string) (net.Conn, error) {
	m := h.find(vm)
	if m == nil {
		return nil, errNotRunning
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // QEMU has its own
	h.mu.Lock()
	h.screens++
	name := fmt.Sprintf("screen%d", h.screens)
	h.mu.Unlock()
	if err := m.qmp.ask(ctx, "getfd", map[string]any{"fdname": name}, nil, theirs); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	if err := m.qmp.run(ctx, "add_client", map[string]any{"protocol": "vnc", "fdname": name, "skipauth": true}); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

// tail keeps the end of what a process says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(b), nil
}

func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
