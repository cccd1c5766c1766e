package qemu_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/internal/guestimage"
	"slipway/internal/testnet"
	"slipway/sim/qemu"
	simxapi "slipway/sim/xapi"
)

// childVar makes this test binary a process that runs one guest, prints its pid and waits to be killed.
const childVar = "SLIPWAY_QEMU_CHILD" // DISKS:IMAGE

type silent struct{}

func (silent) GuestEnded(string)                          {}
func (silent) GuestBooted(string)                         {}
func (silent) GuestReported(string, *simxapi.GuestReport) {}

const childVM = "11111111-2222-3333-4444-555555555555"

func child() {
	dir, image, _ := strings.Cut(os.Getenv(childVar), ":")
	ctx := context.Background()
	h, err := qemu.New(ctx, qemu.Config{Dir: dir, Images: map[string]string{"text": image}})
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

// A simulator that is killed takes its guests along.
func TestNoGuestOutlivesTheSimulator(t *testing.T) {
	t.Parallel()
	image := guestimage.Get(t, guestimage.Text)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+t.TempDir()+":"+image.Dir)
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
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if guest == 0 {
		t.Fatalf("the simulator said %q, %v", line, err)
	}
	testnet.Until(t, 30*time.Second, "the guest's process to be gone", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", guest))
		return err != nil || !strings.Contains(string(text), childVM)
	})
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
