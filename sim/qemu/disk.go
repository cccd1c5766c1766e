package qemu

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"slipway/sim/xapi"
)

// maxChain is how many files a disk may be made of: that of XenServer's VHD drivers.
const maxChain = 30

// storage is a folder of qcow2 files.
type storage struct {
	dir, tool string
	images    map[string]string

	mu    sync.Mutex
	disks map[string]*disk
	bases int // counts, for names
}

// layer is a file of a chain. A file with something above it is never written.
type layer struct {
	path  string
	below *layer
	above int  // layers and disks that stand on it
	kept  bool // is not ours to remove: an image
}

func (l *layer) depth() int {
	n := 0
	for ; l != nil; l = l.below {
		n++
	}
	return n
}

// disk is what a VDI is: its own layer, and the image that it descends from.
type disk struct {
	top     *layer
	image   string // "" of a blank disk
	written bool   // its own layer may differ from what is below
}

func newStorage(dir, tool string, images map[string]string) *storage {
	return &storage{dir: dir, tool: tool, images: images, disks: map[string]*disk{}}
}

func (s *storage) img(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, s.tool, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (s *storage) path(uuid string) string { return filepath.Join(s.dir, uuid+".qcow2") }

// overlay makes an empty layer above another one.
func (s *storage) overlay(ctx context.Context, path string, below *layer, bytes int64) (*layer, error) {
	args := []string{"create", "-q", "-f", "qcow2", "-b", below.path, "-F", "qcow2", path}
	if bytes > 0 {
		args = append(args, fmt.Sprint(bytes))
	}
	if err := s.img(ctx, args...); err != nil {
		return nil, err
	}
	below.above++
	return &layer{path: path, below: below}, nil
}

func (s *storage) get(uuid string) (*disk, error) {
	d := s.disks[uuid]
	if d == nil {
		return nil, fmt.Errorf("there is no disk %s", uuid)
	}
	return d, nil
}

// TemplateDisk implements [xapi.Guests].
func (h *Hypervisor) TemplateDisk(uuid, image string, bytes int64) error {
	s := h.disks
	dir, ok := s.images[image]
	if !ok {
		return fmt.Errorf("no folder is given for image %s", image)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	top, err := s.overlay(context.Background(), s.path(uuid), &layer{path: filepath.Join(dir, imageDisk), kept: true}, bytes)
	if err != nil {
		return err
	}
	s.disks[uuid] = &disk{top: top, image: image}
	return nil
}

// CreateDisk implements [xapi.Guests].
func (h *Hypervisor) CreateDisk(ctx context.Context, uuid string, bytes int64) error {
	s := h.disks
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.img(ctx, "create", "-q", "-f", "qcow2", s.path(uuid), fmt.Sprint(bytes)); err != nil {
		return err
	}
	s.disks[uuid] = &disk{top: &layer{path: s.path(uuid)}, written: true}
	return nil
}

// CloneDisk implements [xapi.Guests].
func (h *Hypervisor) CloneDisk(ctx context.Context, from, uuid string) error {
	s := h.disks
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.get(from)
	if err != nil {
		return err
	}
	shared := d.top.below
	if d.written || shared == nil {
		if d.top.depth()+1 > maxChain {
			return fmt.Errorf("%w: disk %s is made of %d files", xapi.ErrChain, from, d.top.depth())
		}
		if err := s.settle(ctx, from, d); err != nil {
			return err
		}
		shared = d.top.below
	}
	bytes, err := virtualSize(d.top.path)
	if err != nil {
		return err
	}
	top, err := s.overlay(ctx, s.path(uuid), shared, bytes)
	if err != nil {
		return err
	}
	s.disks[uuid] = &disk{top: top, image: d.image}
	return nil
}

// settle makes a disk's own layer one that is shared, and has the disk go on in a new one above it.
func (s *storage) settle(ctx context.Context, uuid string, d *disk) error {
	s.bases++
	base := &layer{path: filepath.Join(s.dir, fmt.Sprintf("base-%d.qcow2", s.bases)), below: d.top.below}
	if err := os.Rename(d.top.path, base.path); err != nil {
		return err
	}
	top, err := s.overlay(ctx, s.path(uuid), base, 0)
	if err != nil {
		return fmt.Errorf("%w, and %w", err, os.Rename(base.path, d.top.path))
	}
	d.top, d.written = top, false
	return nil
}

// CopyDisk implements [xapi.Guests].
func (h *Hypervisor) CopyDisk(ctx context.Context, from, uuid string) error {
	s := h.disks
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.get(from)
	if err != nil {
		return err
	}
	if err := s.img(ctx, "convert", "-f", "qcow2", "-O", "qcow2", d.top.path, s.path(uuid)); err != nil {
		return err
	}
	s.disks[uuid] = &disk{top: &layer{path: s.path(uuid)}, image: d.image, written: true}
	return nil
}

// ResizeDisk implements [xapi.Guests].
func (h *Hypervisor) ResizeDisk(ctx context.Context, uuid string, bytes int64) error {
	s := h.disks
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.get(uuid)
	if err != nil {
		return err
	}
	d.written = true
	return s.img(ctx, "resize", "-q", "-f", "qcow2", d.top.path, fmt.Sprint(bytes))
}

// RemoveDisk implements [xapi.Guests]. A shared layer goes with the last that stands on it.
func (h *Hypervisor) RemoveDisk(uuid string) {
	s := h.disks
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.disks[uuid]
	if d == nil {
		return
	}
	delete(s.disks, uuid)
	for l := d.top; l != nil && !l.kept && l.above == 0; l = l.below {
		_ = os.Remove(l.path) // gone already, or left for close
		if l.below != nil {
			l.below.above--
		}
	}
}

// use names a disk's file for a guest that will write it, and the image that it descends from.
func (s *storage) use(uuid string) (path, image string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.get(uuid)
	if err != nil {
		return "", "", err
	}
	d.written = true
	return d.top.path, d.image, nil
}

// virtualSize is in bytes 24 to 31 of a qcow2 file.
func virtualSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // read-only
	var b [8]byte
	if _, err := f.ReadAt(b[:], 24); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b[:])), nil
}

// close removes what is left of it; the folder stays.
func (s *storage) close() {
	left, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, f := range left {
		_ = os.Remove(filepath.Join(s.dir, f.Name()))
	}
}
