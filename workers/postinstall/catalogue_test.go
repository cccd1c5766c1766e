package postinstall_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

const templates = "../../templates/postinstall"

func TestBuiltInCatalogue(t *testing.T) {
	t.Parallel()
	c, err := postinstall.Load(os.DirFS(templates))
	if err != nil {
		t.Fatal(err)
	}
	wantImages := []string{"almalinux-8", "almalinux-9", "debian-11", "debian-12", "debian-13", "lab", "leap-15", "rocky-8", "rocky-9", "ubuntu-22.04", "ubuntu-24.04"}
	var images []string
	for _, image := range c.Images() {
		if e, err := c.Entry(image); err == nil && e.Transport == postinstall.TransportSSH {
			images = append(images, image)
		}
	}
	if diff := cmp.Diff(wantImages, images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	debian, err := c.Entry("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	ubuntu, err := c.Entry("ubuntu-24.04")
	if err != nil {
		t.Fatal(err)
	}
	if debian.User != "root" || debian.Become != postinstall.BecomeNone || ubuntu.User != "ubuntu" || ubuntu.Become != postinstall.BecomeSudo {
		t.Errorf("logins: %s %s, %s %s", debian.User, debian.Become, ubuntu.User, ubuntu.Become)
	}
	for _, e := range []postinstall.Entry{debian, ubuntu} {
		var names []string
		for _, step := range e.Steps {
			names = append(names, step.Name)
		}
		if diff := cmp.Diff([]string{"identity", "users", "disk", "packages", "cleanup", "checks"}, names); diff != "" {
			t.Errorf("%s: steps (-want +got):\n%s", e.Family, diff)
		}
		if last := e.Steps[len(e.Steps)-1]; !last.Checks || e.Timeout() < 20*time.Minute {
			t.Errorf("%s: the last step must be the checks, the job may take %s", e.Family, e.Timeout())
		}
	}
}

func TestUnknownImage(t *testing.T) {
	t.Parallel()
	c, err := postinstall.Load(os.DirFS(templates))
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"", "debian", "Debian-12", "debian-12 ", "windows-2003", "../debian"} {
		_, err := c.Entry(image)
		if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "debian-11, debian-12, debian-13") {
			t.Errorf("image %q: %v", image, err)
		}
	}
}

const goodManifest = `family: demo
images: [demo-1]
login: {user: root, become: none}
account: root
host_key: template-then-machine
ports: [22]
steps: [{name: one, script: one.sh, timeout: 1m}]
checks: {script: checks.sh, timeout: 1m}
`

func demo(manifest string) fstest.MapFS {
	script := &fstest.MapFile{Data: []byte("#!/bin/bash\ntrue\n")}
	return fstest.MapFS{
		"demo/manifest.yaml": {Data: []byte(manifest)}, "demo/one.sh": script, "demo/checks.sh": script,
		"demo/python.sh": {Data: []byte("#!/usr/bin/python3\n")}, "base/two.sh": script,
		"base/manifest.yaml": {Data: []byte(strings.NewReplacer("demo", "base", "one.sh", "two.sh", "checks.sh", "two.sh").Replace(goodManifest))},
	}
}

func TestManifestIsStrict(t *testing.T) {
	t.Parallel()
	if _, err := postinstall.Load(demo(goodManifest)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"unknown key", "account: root", "account: root\nacount: root", "field acount not found"},
		{"duplicate key", "account: root", "account: root\naccount: root", "already defined"},
		{"second document", "checks: {script: checks.sh, timeout: 1m}", "checks: {script: checks.sh, timeout: 1m}\n---\nfamily: x", "more than one document"},
		{"another family", "family: demo", "family: other", "not the folder's name"},
		{"no images", "images: [demo-1]", "images: []", "images: is empty"},
		{"no image id", "images: [demo-1]", `images: ["demo 1"]`, "no image id"},
		{"image of another", "images: [demo-1]", "images: [base-1]", "served by base already"},
		{"hostile user", "user: root", `user: "root;reboot"`, "no user name"},
		{"root by nobody", "user: root", "user: admin", "the user is not root"},
		{"unknown become", "become: none", "become: su", `"su" is unknown`},
		{"hostile account", "account: root", `account: "-o root"`, "no user name"},
		{"blind trust", "host_key: template-then-machine", "host_key: ignore", `"ignore" is unknown`},
		{"package that is an option", "account: root", "account: root\npackages: [-o=x]", "no package name"},
		{"no ports", "ports: [22]", "ports: []", "ports: is empty"},
		{"port 70000", "ports: [22]", "ports: [70000]", "cannot unmarshal"},
		{"no steps", "steps: [{name: one, script: one.sh, timeout: 1m}]", "steps: []", "has 0 steps"},
		{"name taken", "name: one", "name: checks", "empty, taken"},
		{"script elsewhere", "script: one.sh", "script: ../base/two.sh", "no script's name"},
		{"script missing", "script: one.sh", "script: none.sh", "does not exist"},
		{"not bash", "script: one.sh", "script: python.sh", "does not begin with #!/bin/bash"},
		{"no timeout", "script: one.sh, timeout: 1m", "script: one.sh", "no duration"},
		{"timeout of a day", "script: one.sh, timeout: 1m", "script: one.sh, timeout: 24h", "no duration"},
		{"timeout of half a second", "script: one.sh, timeout: 1m", "script: one.sh, timeout: 500ms", "no duration"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(goodManifest, row.old, row.new, 1)
			if text == goodManifest {
				t.Fatal("the row changes nothing")
			}
			_, err := postinstall.Load(demo(text))
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "demo/manifest.yaml") {
				t.Errorf("got %v, want demo/manifest.yaml and %q", err, row.want)
			}
		})
	}
	if _, err := postinstall.Load(fstest.MapFS{}); err == nil {
		t.Error("an empty catalogue was loaded")
	}
}

func TestExtendsTakesScriptsOfAnother(t *testing.T) {
	t.Parallel()
	c, err := postinstall.Load(demo(strings.Replace(goodManifest, "script: one.sh", "script: two.sh", 1) + "extends: base\n"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Entry("demo-1"); err != nil || len(e.Steps[0].Script) == 0 {
		t.Errorf("%v, %v", e, err)
	}
}
