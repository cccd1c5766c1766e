package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testguest"
	"slipway/internal/testserver"
	simxapi "slipway/sim/xapi"
)

// cpanelInstaller stands for the vendor's: it leaves what the add-on's scripts look for.
const cpanelInstaller = `#!/bin/bash
set -euo pipefail
mkdir -p /usr/local/cpanel
echo ran >>/root/installer-runs
printf '#!/bin/bash\necho "Updating cPanel license...Done. Update succeeded."\n' >/usr/local/cpanel/cpkeyclt
printf 'license\n' >/usr/local/cpanel/cpanel.lisc
printf '#!/bin/bash\n' >/usr/local/cpanel/cpanel
chmod 755 /usr/local/cpanel/cpkeyclt /usr/local/cpanel/cpanel
`

// cpanelTemplates is the templates directory of an operator who has pinned the installer that is served at an address, and puts the add-on
// onto debian-12: the guest of the story is a real Debian, which cPanel itself does not take.
func cpanelTemplates(t *testing.T, address string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile("../templates/postinstall/cpanel/addon.yaml")
	if err != nil {
		t.Fatal(err)
	}
	addon := strings.Replace(string(text), "\nimages:\n", "\nimages:\n  - debian-12\n", 1)
	pin := fmt.Sprintf("url: http://%s/cpanel\nsha256: %x\n", address, sha256.Sum256([]byte(cpanelInstaller)))
	if err := os.MkdirAll(filepath.Join(dir, "postinstall", "cpanel"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"addon.yaml": addon, "pin.yaml": pin} {
		if err := os.WriteFile(filepath.Join(dir, "postinstall", "cpanel", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// An order for a system with cPanel becomes a machine in use: a real guest fetches the pinned installer through the firewall, runs it
// once, is licensed and passes the checks of both.
func TestCPanelOrderBecomesMachine(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	for _, program := range []string{"curl", "perl"} {
		testenv.Need(t, program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const vendor = customerAddress + ":8080"
	url := testserver.RabbitMQ(t)
	g := &realGuests{t: t, changes: make(chan simxapi.Power, 64), guests: map[string]*testguest.Guest{}}
	s := newSite(t, siteConfig{
		pools: 1, rabbitmq: url, images: map[string]string{"debian-12-cpanel": ""}, templates: cpanelTemplates(t, vendor),
		power: func(p simxapi.Power) {
			if len(p.VIFs) > 0 {
				g.changes <- p
			}
		},
		address: func(mac string) (string, bool) { return g.address(mac) },
	})
	g.s = s
	var listener net.Listener
	var err error
	s.customer.Do(func() { listener, err = net.Listen("tcp4", vendor) })
	if err != nil {
		t.Fatal(err)
	}
	var fetched atomic.Int64
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = io.WriteString(w, cpanelInstaller)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	w := s.serve("worker")

	_, customerLine := keyPair(t)
	o := install(1, customerLine)
	data := o["data"].(map[string]any)
	data["name"], data["hostname"], data["image"] = "panel-1", "panel-1.acme.example", "debian-12-cpanel"
	ordered := s.panel(ctx, url, o)
	g.follow(ctx, ordered.done)
	said, journal := ordered.out.String(), s.cli("worker", "show", "panel-1")
	t.Logf("the panel heard:\n%s\nthe journal:\n%s", said, journal)
	if code := ordered.cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(said, `state="production_ready"`) {
		t.Fatalf("the panel ended with %d", code)
	}
	s.counted(1)
	var m api.Machine
	if err := w.api.Get(ctx, "/v1/machines/panel-1", &m); err != nil {
		t.Fatal(err)
	}
	guest := g.guests[m.Placement.MAC]
	if guest == nil {
		t.Fatalf("no guest has MAC %s", m.Placement.MAC)
	}
	if runs, err := guest.ReadFile("/root/installer-runs"); err != nil || string(runs) != "ran\n" || fetched.Load() != 1 {
		t.Errorf("the installer was fetched %d times and has left %q, %v", fetched.Load(), runs, err)
	}
	if out, err := guest.Run(ctx, "test", "-x", "/usr/local/cpanel/cpanel"); err != nil {
		t.Errorf("cPanel is not there: %v %s", err, out)
	}
}
