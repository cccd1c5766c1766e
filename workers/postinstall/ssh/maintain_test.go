package ssh

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/testenv"
	"slipway/orchestrator"
)

func TestMaintenanceIsCheckedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM3iPYeUcyvKhL5gE7fMta8g76VmVqqlzYuF8sil6c26"
	request, want, err := maintenance("root", orchestrator.GuestChange{Hostname: "a.b", Drop: []string{key + " old words"}, Keys: []string{key + " new"}})
	if err != nil || string(request) != "slipway-maintain 1\nhostname a.b\naccount root\ndrop "+key+"\nkey "+key+" new\nend\n" || want != "hostname a.b\nkeys 1\n" {
		t.Errorf("%v\n%s%s", err, request, want)
	}
	for _, bad := range []orchestrator.GuestChange{
		{Hostname: "a b"}, {Hostname: "a\nend"}, {Hostname: strings.Repeat("a", 65)}, {Keys: []string{`command="x" ` + key}}, {Keys: []string{key + "\n" + key}},
		{Keys: []string{"hello"}}, {Keys: []string{key}, Drop: []string{"hello"}},
	} {
		if request, _, err := maintenance("root", bad); err == nil {
			t.Errorf("sent: %s", request)
		}
	}
}

// What stays as root on every machine must be sound for the shell that runs it.
func TestMaintenanceScriptIsSound(t *testing.T) {
	t.Parallel()
	bash := testenv.Need(t, "bash")
	if out, err := exec.CommandContext(t.Context(), bash, "-n", filepath.Join("..", "..", "..", "templates", "postinstall", "debian", "maintain.sh")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
