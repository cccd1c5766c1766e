package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/testenv"
	"slipway/sim/xapi"
)

func newDisks(t *testing.T) (*Hypervisor, string) {
	t.Helper()
	tool := testenv.Need(t, "qemu-img")
	image, dir := t.TempDir(), t.TempDir()
	s := newStorage(dir, tool, map[string]string{"small": image})
	if err := s.img(t.Context(), "create", "-q", "-f", "qcow2", filepath.Join(image, imageDisk), "1M"); err != nil {
		t.Fatal(err)
	}
	h := &Hypervisor{disks: s}
	if err := h.TemplateDisk("template", "small", 2<<20); err != nil {
		t.Fatal(err)
	}
	return h, dir
}

// write is what a guest does that is started with the disk.
func write(t *testing.T, h *Hypervisor, uuid string) {
	t.Helper()
	if _, _, err := h.disks.use(uuid); err != nil {
		t.Fatal(err)
	}
}

func TestTemplateIsNotStackedUp(t *testing.T) {
	h, _ := newDisks(t)
	for i := range 2 * maxChain {
		if err := h.CloneDisk(t.Context(), "template", fmt.Sprintf("clone-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.disks.disks["clone-59"].top.depth(); n != 2 {
		t.Errorf("the last clone is made of %d files, want its own and the image", n)
	}
	if size, err := virtualSize(h.disks.path("clone-59")); err != nil || size != 2<<20 {
		t.Errorf("its size is %d, %v", size, err)
	}
}

func TestChainIsBounded(t *testing.T) {
	h, dir := newDisks(t)
	var err error
	clones := 0
	for ; err == nil && clones < 2*maxChain; clones++ {
		write(t, h, "template")
		err = h.CloneDisk(t.Context(), "template", fmt.Sprintf("clone-%d", clones))
	}
	if depth := h.disks.disks["template"].top.depth(); !errors.Is(err, xapi.ErrChain) || depth != maxChain {
		t.Errorf("after %d clones of a disk that is written in between: %v, its chain has %d files", clones, err, depth)
	}
	// A copy stands alone, and may be cloned again.
	if err := h.CopyDisk(t.Context(), "template", "copy"); err != nil {
		t.Fatal(err)
	}
	if err := h.CloneDisk(t.Context(), "copy", "again"); err != nil {
		t.Error(err)
	}
	// The original goes first: what others stand on stays until the last of them goes.
	for _, uuid := range []string{"template", "copy", "again"} {
		h.RemoveDisk(uuid)
	}
	for i := range clones - 1 {
		if err := h.disks.img(t.Context(), "check", "-q", h.disks.path(fmt.Sprintf("clone-%d", i))); err != nil {
			t.Error(err)
		}
	}
	for i := range clones - 1 {
		h.RemoveDisk(fmt.Sprintf("clone-%d", i))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestCloneIsOfThisMoment(t *testing.T) {
	h, _ := newDisks(t)
	tool := testenv.Need(t, "qemu-io")
	do := func(uuid, command string) {
		t.Helper()
		s := &storage{tool: tool}
		if err := s.img(context.Background(), "-f", "qcow2", "-c", command, h.disks.path(uuid)); err != nil {
			t.Fatal(err)
		}
	}
	clone := func(from, uuid string) {
		t.Helper()
		if err := h.CloneDisk(t.Context(), from, uuid); err != nil {
			t.Fatal(err)
		}
	}
	clone("template", "one")
	write(t, h, "one")
	do("one", "write -P 1 0 64k")
	clone("one", "two")
	write(t, h, "one")
	do("one", "write -P 2 0 64k")
	write(t, h, "two")
	do("two", "read -P 1 0 64k") // a pattern that is not there is an error
	do("two", "write -P 3 64k 64k")
	do("one", "read -P 2 0 64k")
	do("one", "read -P 0 64k 64k")
	do("template", "read -P 0 0 128k")
}
