package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"slipway/sim/xapi"
)

// Config is what the guests of one pool need. Program and Dir are required.
type Config struct {
	Program   string // qemu-system-x86_64
	ImageTool string // qemu-img; "" is the one in PATH
	// Dir holds the disks, and each guest's serial line as VM.serial. It must be empty; Close empties it.
	Dir string
	// Images are the folders of the pool's images: disk.qcow2, and where the guest does not boot from its disk, vmlinuz, initrd and cmdline.
	Images map[string]string
	// Accel is "tcg", "kvm", or "auto": kvm where a guest is seen to boot with it, else tcg. "" is "tcg".
	Accel string
	// Namespace is the path of the network namespace that has the bridges; "" is the one that New is called in.
	Namespace string
	Log       *slog.Logger
}

// Hypervisor runs guests. It implements [xapi.Guests].
type Hypervisor struct {
	cfg      Config
	log      *slog.Logger
	launch   *launcher
	accel    string
	disks    *storage
	events   xapi.GuestEvents
	mu       sync.Mutex
	machines map[string]*machine // by VM; those whose process lives
	screens  int                 // counts, for names
}

var _ xapi.Guests = (*Hypervisor)(nil)

// New looks whether guests can be run here. Close frees what it holds, unless it fails.
func New(ctx context.Context, cfg Config) (*Hypervisor, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for value, name := range map[*string]string{&cfg.Program: "qemu-system-x86_64", &cfg.ImageTool: "qemu-img"} {
		if *value == "" {
			*value = name
		}
		path, err := exec.LookPath(*value)
		if err != nil {
			return nil, fmt.Errorf("qemu: %w: install qemu-system-x86 and qemu-utils", err)
		}
		*value = path
	}
	if err := checkImages(cfg.Images); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("qemu: folder of the disks: %w", err)
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("qemu: folder of the disks: %s is not empty (%s): give an empty one", cfg.Dir, left[0].Name())
	}
	launch, err := newLauncher(cfg.Namespace)
	if err != nil {
		return nil, fmt.Errorf("qemu: network namespace: %w", err)
	}
	h := &Hypervisor{cfg: cfg, log: cfg.Log, launch: launch, machines: map[string]*machine{}, disks: newStorage(cfg.Dir, cfg.ImageTool, cfg.Images)}
	if h.accel, err = h.chooseAccel(ctx); err != nil {
		launch.close()
		return nil, err
	}
	return h, nil
}

func checkImages(images map[string]string) error {
	for name, dir := range images {
		if _, err := os.Stat(filepath.Join(dir, imageDisk)); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, imageKernel)); err == nil {
			if _, err := os.Stat(filepath.Join(dir, imageInitrd)); err != nil {
				return fmt.Errorf("image %s has a kernel, so it needs an initrd: %w", name, err)
			}
		}
	}
	return nil
}

// The files of an image.
const (
	imageDisk    = "disk.qcow2"
	imageKernel  = "vmlinuz"
	imageInitrd  = "initrd"
	imageCmdline = "cmdline"
)

// Open implements [xapi.Guests].
func (h *Hypervisor) Open(events xapi.GuestEvents) error {
	h.events = events
	return nil
}

// Close implements [xapi.Guests].
func (h *Hypervisor) Close() {
	h.mu.Lock()
	running := make([]*machine, 0, len(h.machines))
	for _, m := range h.machines {
		running = append(running, m)
	}
	h.mu.Unlock()
	for _, m := range running {
		m.kill()
	}
	for _, m := range running {
		<-m.ended
	}
	h.launch.close()
	h.disks.close()
}

// Accel is how guests are run: tcg or kvm.
func (h *Hypervisor) Accel() string { return h.accel }

// Start implements [xapi.Guests].
func (h *Hypervisor) Start(ctx context.Context, d xapi.Domain) error {
	if h.find(d.VM) != nil {
		return fmt.Errorf("VM %s runs already", d.VM)
	}
	m, err := h.newMachine(ctx, d)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.machines[d.VM] = m
	h.mu.Unlock()
	go m.reap(func() {
		h.mu.Lock()
		delete(h.machines, d.VM)
		h.mu.Unlock()
		h.events.GuestEnded(d.VM)
	})
	if err := m.begin(ctx, d.Paused); err != nil {
		return err
	}
	h.log.Info("guest started", "vm", d.VM, "name", d.Name, "pid", m.cmd.Process.Pid, "accel", h.accel)
	return nil
}

func (h *Hypervisor) find(vm string) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machines[vm]
}

var errNotRunning = errors.New("the guest does not run")

// Shutdown implements [xapi.Guests].
func (h *Hypervisor) Shutdown(ctx context.Context, vm string) error {
	m := h.find(vm)
	if m == nil {
		return nil
	}
	if err := m.qmp.run(ctx, "system_powerdown", nil); err != nil && !m.over() {
		return err
	}
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop implements [xapi.Guests].
func (h *Hypervisor) Stop(vm string) {
	if m := h.find(vm); m != nil {
		m.kill()
		<-m.ended
	}
}

// Reset implements [xapi.Guests]. One that was paused runs afterwards.
func (h *Hypervisor) Reset(ctx context.Context, vm string) error {
	if err := h.ask(ctx, vm, "system_reset"); err != nil {
		return err
	}
	return h.ask(ctx, vm, "cont")
}

// Pause implements [xapi.Guests].
func (h *Hypervisor) Pause(ctx context.Context, vm string) error { return h.ask(ctx, vm, "stop") }

// Resume implements [xapi.Guests].
func (h *Hypervisor) Resume(ctx context.Context, vm string) error { return h.ask(ctx, vm, "cont") }

func (h *Hypervisor) ask(ctx context.Context, vm, command string) error {
	m := h.find(vm)
	if m == nil {
		return errNotRunning
	}
	return m.qmp.run(ctx, command, nil)
}
