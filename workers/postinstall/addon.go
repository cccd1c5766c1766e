package postinstall

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	addonFile = "addon.yaml"
	pinFile   = "pin.yaml"
)

var checksumPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// addon is a thing that is installed on top of plain systems: a panel. Each image that it names is offered as IMAGE-NAME too.
type addon struct {
	manifest addonManifest
	pin      *pin // nil: nobody has said yet which installer may be run
	steps    []Step
	checks   Step
	files    map[string][]byte
}

type addonManifest struct {
	Addon    string            `yaml:"addon"`
	Extends  string            `yaml:"extends"`
	Images   []string          `yaml:"images"`
	Packages []string          `yaml:"packages"`
	Steps    []manifestStep    `yaml:"steps"`
	Checks   manifestChecks    `yaml:"checks"`
	Files    []string          `yaml:"files"`
	Params   map[string]string `yaml:"params"`
}

// pin says which installer an add-on may fetch and run as root: its vendor puts a new one under the same address whenever it likes, so
// the one that was tried is known by its checksum alone.
type pin struct {
	URL    string `yaml:"url"`
	SHA256 string `yaml:"sha256"`
}

func loadAddon(fsys fs.FS, dir string) (addon, error) {
	file := path.Join(dir, addonFile)
	var a addon
	if err := decode(fsys, file, &a.manifest); err != nil {
		return a, err
	}
	m := a.manifest
	if err := m.check(dir); err != nil {
		return a, fmt.Errorf("%s: %w", file, err)
	}
	chain := []string{dir}
	if m.Extends != "" {
		if err := checkExtends(m.Extends, chain); err != nil {
			return a, fmt.Errorf("%s: %w", file, err)
		}
		chain = append(chain, m.Extends)
	}
	steps, err := readSteps(fsys, TransportSSH, chain, append(slices.Clone(m.Steps), manifestStep{Name: "checks", Script: m.Checks.Script, Timeout: m.Checks.Timeout}))
	if err != nil {
		return a, fmt.Errorf("%s: %w", file, err)
	}
	a.steps, a.checks = steps[:len(steps)-1], steps[len(steps)-1]
	if a.files, err = readFiles(fsys, chain, m.Files); err != nil {
		return a, fmt.Errorf("%s: %w", file, err)
	}
	var p pin
	switch err := decode(fsys, path.Join(dir, pinFile), &p); {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil
	case err != nil:
		return a, err
	}
	if err := p.check(); err != nil {
		return a, fmt.Errorf("%s: %w", path.Join(dir, pinFile), err)
	}
	a.pin = &p
	return a, nil
}

func (m *addonManifest) check(dir string) error {
	var errs []error
	bad := func(field, problem, fix string) { errs = append(errs, fmt.Errorf("%s: %s: %s", field, problem, fix)) }
	if m.Addon != dir {
		bad("addon", fmt.Sprintf("%q is not the folder's name", m.Addon), "write "+dir)
	}
	if len(m.Images) == 0 {
		bad("images", "is empty", "list the images that it can be put on")
	}
	for _, name := range m.Packages {
		if !packagePattern.MatchString(name) {
			bad("packages", fmt.Sprintf("%q is no package name", name), "use names as the package manager lists them")
		}
	}
	checkSteps(m.Steps, bad)
	checkParams(m.Params, bad)
	checkFiles(m.Files, bad)
	return errors.Join(errs...)
}

func (p pin) check() error {
	u, err := url.Parse(p.URL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || strings.ContainsFunc(p.URL, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("url: %.200q is no http or https address without a login: write where the installer is fetched", p.URL)
	}
	if !checksumPattern.MatchString(p.SHA256) {
		return fmt.Errorf("sha256: %.100q is no checksum of 64 lower-case hex digits: write that of the installer that you have tried (sha256sum FILE)", p.SHA256)
	}
	return nil
}

// compose puts every add-on onto the images that it names. One whose installer nobody has pinned is withheld: an order for it is
// refused at once and not after the machine was made.
func (c *Catalogue) compose() []error {
	var errs []error
	plain := maps.Clone(c.entries)
	for _, a := range c.addons {
		file := path.Join(a.manifest.Addon, addonFile)
		for _, image := range a.manifest.Images {
			base, ok := plain[image]
			composed := image + "-" + a.manifest.Addon
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("%s: images: no entry serves %q: take it out", file, image))
			case base.Transport != TransportSSH:
				errs = append(errs, fmt.Errorf("%s: images: %s is not reached over ssh: take it out", file, image))
			case !imagePattern.MatchString(composed):
				errs = append(errs, fmt.Errorf("%s: images: %q is no image id: shorten the add-on's name", file, composed))
			case c.taken(composed):
				errs = append(errs, fmt.Errorf("%s: images: %q is there already: take it out of one of them", file, composed))
			case a.pin == nil:
				c.withheld[composed] = a.manifest.Addon
			default:
				entry, err := a.onto(base, composed)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: images: %s: %w", file, image, err))
					continue
				}
				c.entries[composed] = entry
			}
		}
	}
	return errs
}

func (c *Catalogue) taken(image string) bool {
	_, served := c.entries[image]
	return served || c.withheld[image] != ""
}

// onto is the entry of one composed image: the system's steps, then the add-on's, then the checks of both.
func (a addon) onto(base Entry, image string) (Entry, error) {
	e := base
	e.Images, e.AddOn = []string{image}, a.manifest.Addon
	e.Packages = slices.Concat(base.Packages, a.manifest.Packages)
	last := len(base.Steps) - 1
	checks := base.Steps[last]
	checks.Timeout += a.checks.Timeout
	e.Steps = slices.Concat(base.Steps[:last], a.steps, []Step{checks})
	seen := map[string]bool{}
	for _, step := range e.Steps {
		if seen[step.Name] {
			return e, fmt.Errorf("both have a step %q: rename the add-on's", step.Name)
		}
		seen[step.Name] = true
	}
	e.Params = map[string]string{"INSTALLER_URL": a.pin.URL, "INSTALLER_SHA256": a.pin.SHA256}
	maps.Copy(e.Params, base.Params)
	maps.Copy(e.Params, a.manifest.Params)
	e.Files = map[string][]byte{fileChecks + a.manifest.Addon + ".sh": a.checks.Script}
	maps.Copy(e.Files, base.Files)
	maps.Copy(e.Files, a.files)
	if sum := e.Timeout(); sum > maxJobTimeout {
		return e, fmt.Errorf("system and add-on may take %s: an install waits %s for its post-install", sum.Round(time.Second), maxJobTimeout)
	}
	return e, nil
}

// NotComposed says of an image that names an add-on why it is not there, and what would help; "" of any other image.
func (c *Catalogue) NotComposed(image string) (problem, fix string) {
	if addon := c.withheld[image]; addon != "" {
		return fmt.Sprintf("%q needs the installer of %s, and nobody has said which one may be run", image, addon),
			fmt.Sprintf("put its url and sha256 into postinstall/%s of the templates directory, or use another image", path.Join(addon, pinFile))
	}
	for _, a := range c.addons {
		base, ok := strings.CutSuffix(image, "-"+a.manifest.Addon)
		if _, served := c.entries[base]; ok && served {
			on := make([]string, len(a.manifest.Images))
			for i, name := range a.manifest.Images {
				on[i] = name + "-" + a.manifest.Addon
			}
			return fmt.Sprintf("%q is unknown: %s cannot be put on %s", image, a.manifest.Addon, base), "use one of " + strings.Join(on, ", ") + ", or " + base + " without it"
		}
	}
	return "", ""
}
