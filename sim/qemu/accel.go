package qemu

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	accelTCG  = "tcg"
	accelKVM  = "kvm"
	accelAuto = "auto"

	// probeLimit is what a guest needs at most to come up to its initrd where KVM is what it should be; emulated it takes about as long.
	probeLimit = 10 * time.Second
	probeWord  = "slipway.probe" // the initrd of the project's images says this back and switches off
)

// accelArguments: a small buffer for translated code, since the guests are many and small.
func accelArguments(accel string) []string {
	if accel == accelKVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,tb-size=64", "-cpu", "max"}
}

// chooseAccel settles what "auto" is. That /dev/kvm is there says little: nested or paravirtual ones open, and then run a kernel at a
// hundredth of its speed or not at all. So a guest is booted.
func (h *Hypervisor) chooseAccel(ctx context.Context) (string, error) {
	switch h.cfg.Accel {
	case "", accelTCG:
		return accelTCG, nil
	case accelKVM:
		return accelKVM, nil
	case accelAuto:
		if err := h.probe(ctx, accelKVM, probeLimit); err != nil {
			h.log.Info("guests are emulated", "kvm", err.Error())
			return accelTCG, nil
		}
		return accelKVM, nil
	default:
		return "", fmt.Errorf("acceleration %q is unknown: give tcg, kvm or auto", h.cfg.Accel)
	}
}

// probe boots the kernel of an image, up to its initrd.
func (h *Hypervisor) probe(ctx context.Context, accel string, limit time.Duration) error {
	if accel == accelKVM {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	var dir string
	for _, name := range slices.Sorted(maps.Keys(h.cfg.Images)) {
		if _, err := os.Stat(filepath.Join(h.cfg.Images[name], imageKernel)); err == nil {
			dir = h.cfg.Images[name]
			break
		}
	}
	if dir == "" {
		return fmt.Errorf("no image has a kernel to try it with")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("a guest is not up after %s", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, h.cfg.Program, append(accelArguments(accel), "-nodefaults", "-no-user-config", "-no-reboot", "-machine", "q35", "-m", "256",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-kernel", filepath.Join(dir, imageKernel), "-initrd", filepath.Join(dir, imageInitrd),
		"-append", "console=ttyS0 quiet panic=-1 "+probeWord)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := h.launch.do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %s", err, said.last())
	}
	if !strings.Contains(said.last(), probeWord) {
		return fmt.Errorf("the guest did not come up: %s", said.last())
	}
	return nil
}
