package postinstall_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

// install runs one job on a fresh machine and returns how it ended.
func install(t *testing.T, v *vendors, image string) (*site, orchestrator.JobStatus, string) {
	t.Helper()
	s := newSite(t, v, image)
	s.start(t, "run-1-1")
	status, log := s.finish(t)
	return s, status, log
}

func TestAddOnFailures(t *testing.T) {
	t.Parallel()
	saying := func(words string) string {
		return strings.Replace(cpanelInstaller, "Updating cPanel license...Done. Update succeeded.", words, 1)
	}
	keyed := func(id, limit string) string {
		return strings.NewReplacer("PLSK.01234567.0000", id, "20991231", limit).Replace(pleskInstaller)
	}
	for _, row := range []struct {
		name, image, installer string
		exit                   int
		stage                  string
		kind                   orchestrator.Kind
		want                   string
	}{
		{"no license", "almalinux-9-cpanel", saying("Update Failed! Error message: No valid license found for this address"), postinstall.ExitLicense, "license-cpanel", orchestrator.Permanent, "license: cPanel has none for this machine's public address"},
		{"license ended", "almalinux-9-cpanel", saying("Update Failed! The license for this address has expired"), postinstall.ExitLicense, "license-cpanel", orchestrator.Permanent, "license: cPanel has none"},
		{"license server is silent", "almalinux-9-cpanel", saying("Could not connect to auth.cpanel.net"), 1, "license-cpanel", orchestrator.Transient, "gave no answer"},
		{"installer fails", "almalinux-9-cpanel", "#!/bin/bash\nexit 9\n", 1, "install-cpanel", orchestrator.Transient, "the installer of cPanel ended with 9"},
		{"no key", "debian-12-plesk", keyed("plsk.00000000.0000", "-1"), postinstall.ExitLicense, "license-plesk", orchestrator.Permanent, "license: Plesk has no key"},
		{"key ended", "debian-12-plesk", keyed("PLSK.01234567.0000", "20200101"), postinstall.ExitLicense, "license-plesk", orchestrator.Permanent, "ended at 20200101"},
		{"plesk does not answer", "debian-12-plesk", strings.Replace(pleskInstaller, `"bin keyinfo --list") `, `"bin keyinfo --list") exit 3; `, 1), 1, "license-plesk", orchestrator.Transient, "does not say which key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			addon := row.image[strings.LastIndex(row.image, "-")+1:]
			_, status, log := install(t, newVendors(t, map[string]string{"/" + addon: row.installer}), row.image)
			if status.Exit != row.exit || status.Stage != row.stage || !strings.Contains(log, row.want) {
				t.Errorf("exit code %d at %s:\n%s", status.Exit, status.Stage, log)
			}
			if kind, _ := postinstall.Failure(status.Exit); kind != row.kind {
				t.Errorf("exit code %d is %s", status.Exit, kind)
			}
		})
	}
}

// What is served under the pinned address has changed since: nothing of it runs.
func TestAddOnInstallerIsPinned(t *testing.T) {
	t.Parallel()
	v := newVendors(t, map[string]string{"/cpanel": cpanelInstaller})
	v.files["/cpanel"] = cpanelInstaller + "echo evil >/root/evil\n"
	s, status, log := install(t, v, "almalinux-9-cpanel")
	if kind, _ := postinstall.Failure(status.Exit); status.Exit != postinstall.ExitChecksum || kind != orchestrator.Permanent || !strings.Contains(log, "try the new installer, then pin it") {
		t.Errorf("exit code %d, %s:\n%s", status.Exit, kind, log)
	}
	for _, name := range []string{"/root/installer-runs", "/root/evil", "/var/lib/slipway/jobs/run-1-1/installer"} {
		if _, err := s.guest.ReadFile(name); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// An installer that is not to be had is another matter.
	v.files = map[string]string{}
	if _, status, log := install(t, v, "almalinux-9-cpanel"); status.Exit != 22 || status.Stage != "fetch-cpanel" {
		t.Errorf("exit code %d at %s:\n%s", status.Exit, status.Stage, log)
	}
}

// A license that comes later: the next attempt goes on, without another run of the installer.
func TestAddOnGoesOnOnceLicensed(t *testing.T) {
	t.Parallel()
	installer := strings.Replace(cpanelInstaller, `echo "Updating cPanel license...Done. Update succeeded."`, `[[ -e /root/bought ]] && echo "Update succeeded." || echo "No valid license"`, 1)
	s, status, log := install(t, newVendors(t, map[string]string{"/cpanel": installer}), "rocky-9-cpanel")
	if status.Exit != postinstall.ExitLicense {
		t.Fatalf("exit code %d:\n%s", status.Exit, log)
	}
	if err := s.guest.WriteFile("/root/bought", nil); err != nil {
		t.Fatal(err)
	}
	s.start(t, "run-1-2")
	log = s.succeed(t)
	if runs := s.read(t, "/root/installer-runs"); runs != "ran\n" || !strings.Contains(log, "cPanel is installed already") {
		t.Errorf("the installer has left %q:\n%s", runs, log)
	}
}

func TestAddOnImages(t *testing.T) {
	t.Parallel()
	plain, err := postinstall.Load(os.DirFS(templates))
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(plain.Images(), func(image string) bool { return strings.Contains(image, "cpanel") || strings.Contains(image, "plesk") }) {
		t.Errorf("an add-on is offered whose installer nobody has pinned: %v", plain.Images())
	}
	pinned := newVendors(t, map[string]string{"/cpanel": cpanelInstaller, "/plesk": pleskInstaller}).catalogue(t)
	for _, row := range []struct {
		c           *postinstall.Catalogue
		image, want string
	}{
		{plain, "almalinux-9-cpanel", "put its url and sha256 into postinstall/cpanel/pin.yaml"},
		{pinned, "debian-12-cpanel", "cpanel cannot be put on debian-12: use one of almalinux-8-cpanel, almalinux-9-cpanel, rocky-8-cpanel, rocky-9-cpanel, ubuntu-22.04-cpanel, or debian-12 without it"},
		{pinned, "plan9-cpanel", "no post-install entry serves"},
		{pinned, "almalinux-9-cpanel-plesk", "plesk cannot be put on almalinux-9-cpanel"},
	} {
		if _, err := row.c.Entry(row.image); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(fmt.Sprint(err), row.want) {
			t.Errorf("%s: %v", row.image, err)
		}
	}
	for _, image := range []string{"almalinux-9-cpanel", "debian-12-plesk", "ubuntu-24.04-plesk"} {
		e, err := pinned.Entry(image)
		if err != nil {
			t.Fatal(err)
		}
		base, err := pinned.Entry(image[:strings.LastIndex(image, "-")])
		if err != nil {
			t.Fatal(err)
		}
		if budget := e.Timeout(); budget <= 30*time.Minute || budget <= base.Timeout() || budget > 2*time.Hour {
			t.Errorf("%s has a budget of %s, its system %s", image, budget, base.Timeout())
		}
		if e.Family != base.Family || e.User != base.User || len(base.Steps) >= len(e.Steps) {
			t.Errorf("%s is not its system and more: %+v", image, e)
		}
		if order := (orchestrator.Order{Source: "panel", ID: "1", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web", Image: image, Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 20}}); strings.Contains(fmt.Sprint(order.Validate()), "image") {
			t.Errorf("an order cannot name %s: %v", image, order.Validate())
		}
	}
}

const goodAddon = `addon: panel
images: [base-1]
packages: [curl]
steps: [{name: panel, script: panel.sh, timeout: 40m}]
checks: {script: panel.sh, timeout: 1m}
`

const goodPin = "url: https://mirror.example.net/installer\nsha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"

func TestAddOnManifestIsStrict(t *testing.T) {
	t.Parallel()
	load := func(addon, pin string) (*postinstall.Catalogue, error) {
		fsys := demo(goodManifest)
		fsys["panel/addon.yaml"] = &fstest.MapFile{Data: []byte(addon)}
		fsys["panel/pin.yaml"] = &fstest.MapFile{Data: []byte(pin)}
		fsys["panel/panel.sh"] = fsys["demo/one.sh"]
		fsys["_shared/fetch.sh"] = fsys["demo/one.sh"]
		return postinstall.Load(fsys)
	}
	c, err := load(strings.Replace(goodAddon, "steps: [", "extends: _shared\nsteps: [{name: fetch, script: fetch.sh, timeout: 1m}, ", 1), goodPin)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Entry("base-1-panel"); err != nil || len(e.Steps) != 4 || e.Params["INSTALLER_URL"] != "https://mirror.example.net/installer" || len(e.Files["checks-panel.sh"]) == 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"unknown key", "addon: panel", "addon: panel\nlogin: {user: root}", "field login not found"},
		{"another name", "addon: panel", "addon: other", "not the folder's name"},
		{"no images", "images: [base-1]", "images: []", "images: is empty"},
		{"image of nobody", "images: [base-1]", "images: [plan9]", `no entry serves "plan9"`},
		{"image twice", "images: [base-1]", "images: [base-1, base-1]", "is there already"},
		{"package that is an option", "packages: [curl]", "packages: [--nogpgcheck]", "no package name"},
		{"no steps", "steps: [{name: panel, script: panel.sh, timeout: 40m}]", "steps: []", "has 0 steps"},
		{"step of the system", "name: panel", "name: one", `both have a step "one"`},
		{"script missing", "script: panel.sh, timeout: 40m", "script: none.sh, timeout: 40m", "does not exist"},
		{"longer than an install waits", "timeout: 40m", "timeout: 2h", "an install waits 2h"},
		{"constant of ours", "packages: [curl]", "params: {GUEST_USER: evil}", "slipway's own"},
		{"file of ours", "packages: [curl]", "files: [authorized_keys]", "slipway's own"},
		{"no address", "https://mirror.example.net/installer", "ftp://mirror.example.net/installer", "no http or https address"},
		{"login in the address", "https://mirror", "https://a:b@mirror", "no http or https address"},
		{"option as an address", "https://mirror.example.net/installer", "-K/etc/passwd", "no http or https address"},
		{"short checksum", "sha256: 01", "sha256: 1", "no checksum"},
		{"no checksum", "sha256: ", "# ", "no checksum"},
	} {
		addon, pin := strings.Replace(goodAddon, row.old, row.new, 1), strings.Replace(goodPin, row.old, row.new, 1)
		if addon == goodAddon && pin == goodPin {
			t.Fatalf("%s: the row changes nothing", row.name)
		}
		if _, err := load(addon, pin); err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "panel/") {
			t.Errorf("%s: got %v, want panel/ and %q", row.name, err, row.want)
		}
	}
}

func TestFailure(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		exit    int
		kind    orchestrator.Kind
		meaning string
	}{
		{1, orchestrator.Transient, ""}, {75, orchestrator.Transient, ""}, {79, orchestrator.Transient, ""}, {80, orchestrator.Permanent, "no license"},
		{81, orchestrator.Permanent, "refused"}, {82, orchestrator.Permanent, "wrong checksum"}, {89, orchestrator.Permanent, ""},
		{90, orchestrator.Transient, ""}, {124, orchestrator.Transient, ""}, {137, orchestrator.Transient, ""},
	} {
		if kind, meaning := postinstall.Failure(row.exit); kind != row.kind || meaning != row.meaning {
			t.Errorf("%d: %s %q", row.exit, kind, meaning)
		}
	}
}

// Entries inherit along a chain, and a circle ends it.
func TestExtendsInherits(t *testing.T) {
	t.Parallel()
	files := func(manifests map[string]string) fstest.MapFS {
		fsys := demo(goodManifest)
		for dir, text := range manifests {
			fsys[dir+"/manifest.yaml"] = &fstest.MapFile{Data: []byte(text)}
		}
		return fsys
	}
	c, err := postinstall.Load(files(map[string]string{
		"base":   goodBase + "params: {UNIT: a, LEVEL: low}\npackages: [rsync]\n",
		"child":  "family: child\nextends: base\nimages: [child-1]\nparams: {UNIT: b}\n",
		"nephew": "family: nephew\nextends: child\nimages: [nephew-1]\nlogin: {user: admin, become: sudo}\npackages: []\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Entry("nephew-1")
	if err != nil {
		t.Fatal(err)
	}
	if e.Params["UNIT"] != "b" || e.Params["LEVEL"] != "low" || e.User != "admin" || e.Account != "root" || len(e.Packages) != 0 || len(e.Steps) != 2 || !slices.Equal(e.Images, []string{"nephew-1"}) {
		t.Errorf("%+v", e)
	}
	for name, row := range map[string]struct {
		manifests map[string]string
		want      string
	}{
		"circle": {map[string]string{
			"a": "family: a\nextends: b\nimages: [a]\n", "b": "family: b\nextends: c\nimages: [b]\n", "c": "family: c\nextends: a\nimages: [c]\n",
		}, "end the circle"},
		"itself":         {map[string]string{"a": "family: a\nextends: a\nimages: [a]\n"}, "no other entry"},
		"nobody":         {map[string]string{"a": "family: a\nextends: none\nimages: [a]\n"}, "none/manifest.yaml"},
		"elsewhere":      {map[string]string{"a": "family: a\nextends: ../base\nimages: [a]\n"}, "no other entry"},
		"too far":        {map[string]string{"a": "family: a\nextends: b\nimages: [a]\n", "b": "family: b\nextends: c\nimages: [b]\n", "c": "family: c\nextends: d\nimages: [c]\n", "d": "family: d\nextends: e\nimages: [d]\n", "e": "family: e\nextends: base\nimages: [e]\n"}, "extend a nearer one"},
		"images are own": {map[string]string{"a": "family: a\nextends: base\n"}, "images: is empty"},
	} {
		if _, err := postinstall.Load(files(row.manifests)); err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "a/manifest.yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var goodBase = strings.NewReplacer("demo", "base", "one.sh", "two.sh", "checks.sh", "two.sh").Replace(goodManifest)
