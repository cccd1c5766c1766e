package winrm_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	sim "slipway/sim/winrm"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/winrm"
)

// Whatever stands in a script, a file, a constant or the password arrives as it is: every printable ASCII character, what PowerShell takes
// for quotes beside them, here-strings, and what cmd and PowerShell would expand.
func TestEveryQuoteArrives(t *testing.T) {
	t.Parallel()
	var ascii strings.Builder
	for c := byte(0x20); c < 0x7f; c++ {
		ascii.WriteByte(c)
	}
	nasty := ascii.String() + "\u2018\u2019\u201a\u201b\u201c\u201d\u201e" + "`$(Restart-Computer)`\"$env:X\"''\"\"%PATH%!X!^&|<>@'#\u00fc\u4e2d"
	script := "#requires -Version 5.1\n$a = @\"\n" + nasty + "\n\"@\n$b = @'\n" + nasty + "\n'@\nWrite-Output '''' \"\"\"\" `\"\nexit 0\n"
	step := map[string]string{"name": "administrator", "script": "one.ps1", "timeout": "1m"}
	manifest, err := json.Marshal(map[string]any{ // JSON is YAML
		"family": "demo", "transport": "winrm", "images": []string{image}, "login": map[string]string{"user": "slipway", "become": "none"},
		"account": "administrator", "host_key": "template-then-machine", "ports": []int{5986}, "steps": []any{step},
		"checks": map[string]string{"script": "one.ps1", "timeout": "1m"}, "params": map[string]string{"WORDS": nasty, "HOSTNAME": "another"}, "files": []string{"words.txt"},
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := postinstall.Load(fstest.MapFS{
		"demo/manifest.yaml": {Data: manifest}, "demo/one.ps1": {Data: []byte(script)}, "demo/words.txt": {Data: []byte(nasty)},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(_ *sim.Config, w *winrm.Config) { w.Catalogue = entries })
	b.job.AdministratorPassword = orchestrator.NewSecret("Aa1" + ascii.String())
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	b.until(t, orchestrator.JobExited)
	got := b.guest.Uploaded(b.job.ID)
	if diff := cmp.Diff("\ufeff"+script, string(got.Scripts["administrator"])); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
	if string(got.Files["words.txt"]) != nasty || got.Params["words"] != nasty || got.Params["hostname"] != b.job.Hostname {
		t.Errorf("files and constants: %q", got)
	}
	if got := b.guest.Password("Administrator"); got != b.job.AdministratorPassword.Reveal() {
		t.Errorf("the password has become %q", got)
	}
}
