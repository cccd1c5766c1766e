package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/guestimage"
)

// The probe tells a guest that comes up from one that does not; what it makes of this machine's KVM is whatever is so.
func TestProbe(t *testing.T) {
	t.Parallel()
	image := guestimage.Get(t, guestimage.Lab)
	broken := t.TempDir()
	for name, text := range map[string]string{imageKernel: "This is a text file.\n", imageInitrd: "And so is this.\n"} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	try := func(accel, dir string, limit time.Duration) error {
		t.Helper()
		h, err := New(t.Context(), Config{Dir: t.TempDir(), Images: map[string]string{"lab": image.Dir}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		h.cfg.Images = map[string]string{"lab": dir}
		return h.probe(t.Context(), accel, limit)
	}
	if err := try(accelTCG, image.Dir, 5*time.Minute); err != nil {
		t.Errorf("a guest that comes up: %v", err)
	}
	if err := try(accelTCG, broken, 5*time.Minute); err == nil {
		t.Error("a kernel that is a text file comes up")
	}
	if err := try(accelTCG, image.Dir, time.Millisecond); err == nil || !strings.Contains(err.Error(), "not up after 1ms") {
		t.Errorf("one that is not up in time: %v", err)
	}
	if err := try(accelTCG, t.TempDir(), 5*time.Minute); err == nil || !strings.Contains(err.Error(), "no image has a kernel") {
		t.Errorf("without a kernel: %v", err)
	}
	want, why := accelKVM, try(accelKVM, image.Dir, probeLimit)
	if why != nil {
		want = accelTCG
	}
	t.Logf("KVM on this machine: %v", why)
	h, err := New(t.Context(), Config{Dir: t.TempDir(), Images: map[string]string{"lab": image.Dir}, Accel: accelAuto})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.Accel() != want && why != nil { // one that works may be too slow for once
		t.Errorf("auto is %s, want %s", h.Accel(), want)
	}
}
