package qemu_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/internal/guestimage"
	"slipway/internal/testnet"
	"slipway/sim/qemu"
	simxapi "slipway/sim/xapi"
)

// childVar makes this test binary a process that runs one guest, says so and waits to be killed.
const childVar = "SLIPWAY_QEMU_CHILD" // PARENT:IMAGE; the folder of disks is made in PARENT

type silent struct{}

func (silent) GuestEnded(string)                          {}
func (silent) GuestBooted(string)                         {}
func (silent) GuestReported(string, *simxapi.GuestReport) {}

const childVM = "11111111-2222-3333-4444-555555555555"

func child() {
	parent, image, _ := strings.Cut(os.Getenv(childVar), ":")
	ctx := context.Background()
	var h *qemu.Hypervisor
	dir, _, err := qemu.NewDir(parent, slog.New(slog.DiscardHandler))
	if err == nil {
		h, err = qemu.New(ctx, qemu.Config{Dir: dir, Images: map[string]string{"text": image}})
	}
	if err == nil {
		err = h.Open(silent{})
	}
	if err == nil {
		err = h.TemplateDisk(childVM, "text", 1<<30)
	}
	if err == nil {
		err = h.Start(ctx, simxapi.Domain{VM: childVM, MemoryMiB: 64, VCPUs: 1, Disks: []string{childVM}})
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("runs")
	select {}
}

// A simulator that is killed takes its guests along, and the next one removes its disks; those of one that lives stay.
func TestNoGuestOutlivesTheSimulator(t *testing.T) {
	t.Parallel()
	image := guestimage.Get(t, guestimage.Text)
	parent, log := t.TempDir(), slog.New(slog.DiscardHandler)
	foreign := filepath.Join(parent, "slipway-guests-of-somebody")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+parent+":"+image.Dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	guest := 0
	if err == nil && line == "runs\n" {
		guest = qemuOf(t, cmd.Process.Pid)
	}
	disks := func() []string {
		dir, remove, err := qemu.NewDir(parent, log)
		if err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(parent, "*", "*", "*"))
		if err := errors.Join(err, remove()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s was not removed by its owner", dir)
		}
		return found
	}
	if found := disks(); guest != 0 && len(found) == 0 {
		t.Error("the disks of a simulator that lives are gone")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if guest == 0 {
		t.Fatalf("the simulator said %q, %v", line, err)
	}
	testnet.Until(t, 30*time.Second, "the guest's process to be gone", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", guest))
		return err != nil || !strings.Contains(string(text), childVM)
	})
	if found := disks(); len(found) > 0 {
		t.Errorf("left by the one that was killed: %v", found)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 || left[0].Name() != filepath.Base(foreign) {
		t.Errorf("in the folder are %v, %v; want somebody's own alone", left, err)
	}
}

// qemuOf finds the one child of a process, whichever of its threads started it.
func qemuOf(t *testing.T, pid int) int {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread.Name()))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			n, err := strconv.Atoi(field)
			if err == nil {
				return n
			}
		}
	}
	return 0
}
