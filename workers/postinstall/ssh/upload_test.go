package ssh

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/sim/guest"
	"slipway/workers/postinstall"
)

// tar calls an archive whole that ends between two files; a job must not begin without its last ones.
func TestAnUploadCutBetweenFilesIsNoJob(t *testing.T) {
	t.Parallel()
	hostKey, hostLine, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	login, loginLine, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey([]byte(login.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	disk := t.TempDir()
	simulated, err := guest.New(guest.Config{Dir: disk, HostKey: []byte(hostKey.Reveal()), AuthorizedKeys: []string{loginLine}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = simulated.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := simulated.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	catalogue, err := postinstall.Load(os.DirFS("../../../templates/postinstall"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := catalogue.Entry("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := entry.Bundle("run-1", postinstall.Params{
		Machine: "6f1c1f0e-4f5e-4b7e-9d63-0a1b2c3d4e5f", Hostname: "web1", AuthorizedKeys: []string{loginLine}, HostKey: hostKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := archive(bundle)
	if err != nil {
		t.Fatal(err)
	}
	// The last file has a header and no content; then come two empty blocks.
	const block = 512
	cut := packed[:len(packed)-3*block]

	i, err := New(Config{Catalogue: catalogue, Key: key, TemplateKeys: func(string, string) []string { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	g := orchestrator.Guest{Machine: "m", Image: "debian-12", HostKey: hostLine, Address: netip.MustParseAddrPort(l.Addr().String())}
	_, err = i.once(t.Context(), "test", g, bytes.NewReader(cut), "upload", "run-1")
	if orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(err.Error(), "the archive is cut off") {
		t.Errorf("a cut upload: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(disk, "var/lib/slipway/jobs")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := simulated.ReadFile("/var/lib/slipway/jobs/run-1/env"); err == nil {
		t.Error("the cut upload has become a job")
	}
	if _, err := i.once(t.Context(), "test", g, bytes.NewReader(packed), "upload", "run-1"); err != nil {
		t.Errorf("the whole one after it: %v", err)
	}
	if _, err := simulated.ReadFile("/var/lib/slipway/jobs/run-1/env"); err != nil {
		t.Errorf("the whole one is no job: %v", err)
	}
}
