package postinstall

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Become says how the login user gets to be root.
type Become string

const (
	BecomeNone Become = "none" // the login user is root
	BecomeSudo Become = "sudo" // through `sudo -n`, so without a password
)

// HostKeyPolicy says which host key is accepted when.
type HostKeyPolicy string

// Transport says how an entry's guests are reached.
type Transport string

const (
	TransportSSH   Transport = "ssh"   // scripts are run by bash; the default
	TransportWinRM Transport = "winrm" // scripts are run by Windows PowerShell 5.1
)

// TemplateThenMachine accepts the template's own host key, or the machine's, until the machine's has been seen; then the machine's alone.
const TemplateThenMachine HostKeyPolicy = "template-then-machine"

// Limits of a manifest: a script that takes longer belongs in the template, and a bigger file in a package.
const (
	maxStepTimeout = 2 * time.Hour
	maxJobTimeout  = 2 * time.Hour // what an install gives its post-install in all
	maxExtends     = 4
	maxSteps       = 32
	maxFile        = 1 << 20
)

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
var imagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
var scriptPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}\.sh$`)
var powerShellPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}\.ps1$`)
var packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
var userPattern = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// Entry is how one family of images is installed.
type Entry struct {
	Family string
	Images []string
	// Transport chooses the installer; scripts of a winrm entry end in .ps1.
	Transport Transport
	User      string // first login, with the installer's key
	Account   string // whose authorized_keys gets the customer's keys; made when it is not there
	Become    Become
	HostKey   HostKeyPolicy
	// Packages are installed where they are missing, by the system's own package manager and from its own sources.
	Packages []string
	Ports    []uint16 // what the installer's firewall rule opens; the first one is the one that is dialled
	Serves   []uint16 // where every finished guest answers, as verify tries it; Ports when the manifest says nothing
	Steps    []Step   // in order; the last one is the checks
	// AddOn is what is installed on top of the family's system, "" for the plain system.
	AddOn string
	// Files lie beside the job's own, for its scripts; by name.
	Files map[string][]byte
	// Maintenance is the script that stays in the finished machine and changes keys and hostname; nil leaves nothing there.
	Maintenance []byte
	// Params are the scripts' constants, by their upper-case names.
	Params map[string]string
}

// Step is one script of an entry.
type Step struct {
	Name    string
	Timeout time.Duration
	Script  []byte
	Checks  bool // prints a name=ok or name=failed line for each check
}

// Timeout is the budget of the whole job: the sum over its steps. Load sees to it that it is at most two hours.
func (e Entry) Timeout() time.Duration {
	var sum time.Duration
	for _, step := range e.Steps {
		sum += step.Timeout
	}
	return sum
}

// Catalogue is every entry, by image. It does not change after Load and may be shared.
type Catalogue struct {
	entries  map[string]Entry  // by image
	images   []string          // sorted
	withheld map[string]string // the add-on that nobody has pinned yet, by image
	addons   []addon
}

// Load reads a catalogue: every folder of fsys that has a manifest.yaml is an entry, one that has an addon.yaml is an add-on, and one
// whose name begins with an underscore has only scripts for others. An unknown key, a missing script, an image served twice are errors
// that name the file; all of them are reported together.
func Load(fsys fs.FS) (*Catalogue, error) {
	dirs, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read the post-install catalogue: %w", err)
	}
	c := &Catalogue{entries: map[string]Entry{}, withheld: map[string]string{}}
	var errs []error
	for _, dir := range dirs {
		if !dir.IsDir() || strings.HasPrefix(dir.Name(), "_") {
			continue
		}
		if _, err := fs.Stat(fsys, path.Join(dir.Name(), addonFile)); err == nil {
			a, err := loadAddon(fsys, dir.Name())
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c.addons = append(c.addons, a)
			continue
		}
		entry, err := loadEntry(fsys, dir.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, image := range entry.Images {
			if other, ok := c.entries[image]; ok {
				errs = append(errs, fmt.Errorf("%s/manifest.yaml: images: %q is served by %s already: take it out of one of them", dir.Name(), image, other.Family))
				continue
			}
			c.entries[image] = entry
		}
	}
	if len(errs) == 0 {
		errs = c.compose()
	}
	if len(errs) == 0 && len(c.entries) == 0 {
		errs = append(errs, errors.New("the post-install catalogue is empty: it needs a folder with a manifest.yaml"))
	}
	c.images = slices.Sorted(maps.Keys(c.entries))
	return c, errors.Join(errs...)
}

// Images lists the images that can be installed, sorted.
func (c *Catalogue) Images() []string { return slices.Clone(c.images) }

// Entry returns the entry that serves an image. An image that none serves is a Permanent error that names those that are.
func (c *Catalogue) Entry(image string) (Entry, error) {
	const op = "postinstall.Entry"
	entry, ok := c.entries[image]
	if !ok {
		if problem, fix := c.NotComposed(image); problem != "" {
			return Entry{}, orchestrator.Errorf(op, orchestrator.Permanent, "image %s: %s", problem, fix)
		}
		return Entry{}, orchestrator.Errorf(op, orchestrator.Permanent,
			"no post-install entry serves image %q: use one of %s, or add a folder to templates/postinstall", image, strings.Join(c.images, ", "))
	}
	return entry, nil
}

type manifest struct {
	Family    string    `yaml:"family"`
	Extends   string    `yaml:"extends"`
	Transport Transport `yaml:"transport"`
	Images    []string  `yaml:"images"`
	Login     struct {
		User   string `yaml:"user"`
		Become Become `yaml:"become"`
	} `yaml:"login"`
	HostKey  HostKeyPolicy  `yaml:"host_key"`
	Packages []string       `yaml:"packages"`
	Account  string         `yaml:"account"`
	Ports    []uint16       `yaml:"ports"`
	Serves   []uint16       `yaml:"serves"`
	Steps    []manifestStep `yaml:"steps"`
	Checks   manifestChecks `yaml:"checks"`
	// Maintenance is a script, see Entry.
	Maintenance string `yaml:"maintenance"`
	// Files go along with the job; Params are constants of its scripts.
	Files  []string          `yaml:"files"`
	Params map[string]string `yaml:"params"`
}

type manifestChecks struct {
	Script  string `yaml:"script"`
	Timeout string `yaml:"timeout"`
}

type manifestStep struct {
	Name    string `yaml:"name"`
	Script  string `yaml:"script"`
	Timeout string `yaml:"timeout"`
}

func loadEntry(fsys fs.FS, dir string) (Entry, error) {
	file := path.Join(dir, manifestFile)
	m, chain, err := resolve(fsys, dir)
	if err != nil {
		return Entry{}, err
	}
	if m.Transport == "" {
		m.Transport = TransportSSH
	}
	if err := m.check(dir); err != nil {
		return Entry{}, fmt.Errorf("%s: %w", file, err)
	}
	entry := Entry{
		Family: m.Family, Images: m.Images, Transport: m.Transport, User: m.Login.User, Become: m.Login.Become, Account: m.Account,
		HostKey: m.HostKey, Packages: m.Packages, Ports: m.Ports, Serves: m.Serves, Params: m.Params,
	}
	if entry.Serves == nil {
		entry.Serves = entry.Ports
	}
	steps := append(slices.Clone(m.Steps), manifestStep{Name: "checks", Script: m.Checks.Script, Timeout: m.Checks.Timeout})
	if entry.Steps, err = readSteps(fsys, m.Transport, chain, steps); err != nil {
		return Entry{}, fmt.Errorf("%s: %w", file, err)
	}
	entry.Steps[len(entry.Steps)-1].Checks = true
	if entry.Files, err = readFiles(fsys, chain, m.Files); err != nil {
		return Entry{}, fmt.Errorf("%s: %w", file, err)
	}
	if m.Maintenance != "" {
		if entry.Maintenance, err = readScript(fsys, m.Transport, chain, m.Maintenance); err != nil {
			return Entry{}, fmt.Errorf("%s: maintenance: %w", file, err)
		}
	}
	if sum := entry.Timeout(); sum > maxJobTimeout {
		return Entry{}, fmt.Errorf("%s: steps: may take %s in all: an install waits %s for its post-install", file, sum, maxJobTimeout)
	}
	return entry, nil
}

func (m *manifest) check(dir string) error {
	var errs []error
	bad := func(field, problem, fix string) { errs = append(errs, fmt.Errorf("%s: %s: %s", field, problem, fix)) }
	if m.Family != dir {
		bad("family", fmt.Sprintf("%q is not the folder's name", m.Family), "write "+dir)
	}
	if m.Transport != TransportSSH && m.Transport != TransportWinRM {
		bad("transport", fmt.Sprintf("%q is unknown", m.Transport), "use ssh or winrm")
	}
	if m.Transport == TransportWinRM && m.Maintenance != "" {
		bad("maintenance", "is of no use over winrm", "take the line out")
	}
	if m.Transport == TransportWinRM && len(m.Packages) > 0 {
		bad("packages", "are of no use over winrm", "install them in a script")
	}
	if len(m.Images) == 0 {
		bad("images", "is empty", "list the image ids it serves")
	}
	for _, image := range m.Images {
		if !imagePattern.MatchString(image) {
			bad("images", fmt.Sprintf("%q is no image id", image), "use lower-case letters, digits, dots, dashes")
		}
	}
	if !userPattern.MatchString(m.Login.User) {
		bad("login.user", fmt.Sprintf("%q is no user name", m.Login.User), "name who logs in first, e.g. root")
	}
	if !userPattern.MatchString(m.Account) {
		bad("account", fmt.Sprintf("%q is no user name", m.Account), "name the customer's account, e.g. root")
	}
	if m.Login.Become != BecomeNone && m.Login.Become != BecomeSudo {
		bad("login.become", fmt.Sprintf("%q is unknown", m.Login.Become), "use none or sudo")
	}
	if m.Transport == TransportSSH && m.Login.Become == BecomeNone && m.Login.User != "root" {
		bad("login.become", "is none, but the user is not root", "use sudo, or log in as root")
	}
	if m.HostKey != TemplateThenMachine {
		bad("host_key", fmt.Sprintf("%q is unknown", m.HostKey), "use "+string(TemplateThenMachine))
	}
	for _, name := range m.Packages {
		if !packagePattern.MatchString(name) {
			bad("packages", fmt.Sprintf("%q is no package name", name), "use names as the package manager lists them")
		}
	}
	if len(m.Ports) == 0 || slices.Contains(m.Ports, 0) {
		bad("ports", "is empty or has a 0", "list the ports that the installer needs, e.g. [22]")
	}
	if slices.Contains(m.Serves, 0) {
		bad("serves", "has a 0", "list the ports on which every finished guest answers, e.g. [22], or leave it out")
	}
	checkSteps(m.Steps, bad)
	checkParams(m.Params, bad)
	checkFiles(m.Files, bad)
	return errors.Join(errs...)
}

func timeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > maxStepTimeout || d%time.Second != 0 {
		return 0, fmt.Errorf("timeout: %q is no duration of whole seconds between 1s and %s: write e.g. 5m", text, maxStepTimeout)
	}
	return d, nil
}

// readScript takes a script from the first folder of the chain that has it.
func readScript(fsys fs.FS, transport Transport, chain []string, name string) ([]byte, error) {
	pattern, ending, first, by := scriptPattern, ".sh", "#!/bin/bash\n", "bash"
	if transport == TransportWinRM {
		pattern, ending, first, by = powerShellPattern, ".ps1", "#requires -Version 5.1\n", "Windows PowerShell"
	}
	if !pattern.MatchString(name) {
		return nil, fmt.Errorf("script: %q is no script's name: use a file of the folder that ends in %s", name, ending)
	}
	text, err := readFirst(fsys, chain, name)
	if err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	if !bytes.HasPrefix(text, []byte(first)) {
		return nil, fmt.Errorf("script: %s does not begin with %s: it is run by %s", name, strings.TrimSpace(first), by)
	}
	return text, nil
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return text, nil
}
