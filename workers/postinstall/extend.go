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

	"gopkg.in/yaml.v3"
)

const manifestFile = "manifest.yaml"

var folderPattern = regexp.MustCompile(`^_?[a-z0-9][a-z0-9_-]{0,62}$`)

// resolve reads an entry's manifest and fills in what it leaves out from the one that it extends, and so on. The chain is where scripts
// and files are looked for, the entry's own folder first. What an entry is called and which images it serves is never inherited.
func resolve(fsys fs.FS, dir string) (manifest, []string, error) {
	var m manifest
	if err := decode(fsys, path.Join(dir, manifestFile), &m); err != nil {
		return m, nil, err
	}
	chain := []string{dir}
	for next := m.Extends; next != ""; {
		if err := checkExtends(next, chain); err != nil {
			return m, nil, fmt.Errorf("%s/%s: %w", dir, manifestFile, err)
		}
		chain = append(chain, next)
		if strings.HasPrefix(next, "_") {
			break // has scripts alone
		}
		var parent manifest
		if err := decode(fsys, path.Join(next, manifestFile), &parent); err != nil {
			return m, nil, fmt.Errorf("%s/%s: extends: %w", dir, manifestFile, err)
		}
		m.inherit(parent)
		next = parent.Extends
	}
	return m, chain, nil
}

func checkExtends(next string, chain []string) error {
	switch {
	case !folderPattern.MatchString(next) || next == chain[len(chain)-1]:
		return fmt.Errorf("extends: %q is no other entry: name a folder of the catalogue, or take the line out", next)
	case slices.Contains(chain, next):
		return fmt.Errorf("extends: %s leads back to %s: end the circle", strings.Join(chain, " extends "), next)
	case len(chain) > maxExtends:
		return fmt.Errorf("extends: %s is longer than %d: extend a nearer one", strings.Join(chain, " extends "), maxExtends)
	}
	return nil
}

// inherit takes over whatever m does not say itself. A list is taken whole or not at all; constants one by one.
func (m *manifest) inherit(parent manifest) {
	orElse(&m.Transport, parent.Transport)
	orElse(&m.Login.User, parent.Login.User)
	orElse(&m.Login.Become, parent.Login.Become)
	orElse(&m.HostKey, parent.HostKey)
	orElse(&m.Account, parent.Account)
	orElse(&m.Maintenance, parent.Maintenance)
	orElse(&m.Checks.Script, parent.Checks.Script)
	orElse(&m.Checks.Timeout, parent.Checks.Timeout)
	if m.Packages == nil {
		m.Packages = parent.Packages
	}
	if m.Ports == nil {
		m.Ports = parent.Ports
	}
	if m.Serves == nil {
		m.Serves = parent.Serves
	}
	if m.Steps == nil {
		m.Steps = parent.Steps
	}
	if m.Files == nil {
		m.Files = parent.Files
	}
	params := maps.Clone(parent.Params)
	if params == nil {
		params = map[string]string{}
	}
	maps.Copy(params, m.Params)
	m.Params = params
}

func orElse[T ~string](value *T, other T) {
	if *value == "" {
		*value = other
	}
}

// decode reads one YAML document strictly: an unknown key, a key twice or a second document is an error that names the file.
func decode(fsys fs.FS, file string, into any) error {
	text, err := readFile(fsys, file)
	if err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: has more than one document: keep the first", file)
	}
	return nil
}

func readSteps(fsys fs.FS, transport Transport, chain []string, list []manifestStep) ([]Step, error) {
	var steps []Step
	for _, s := range list {
		step := Step{Name: s.Name}
		var err error
		if step.Timeout, err = timeout(s.Timeout); err != nil {
			return nil, fmt.Errorf("step %s: %w", s.Name, err)
		}
		if step.Script, err = readScript(fsys, transport, chain, s.Script); err != nil {
			return nil, fmt.Errorf("step %s: %w", s.Name, err)
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func readFiles(fsys fs.FS, chain []string, names []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range names {
		text, err := readFirst(fsys, chain, name)
		if err != nil {
			return nil, fmt.Errorf("files: %w", err)
		}
		files[name] = text
	}
	return files, nil
}

func readFirst(fsys fs.FS, chain []string, name string) ([]byte, error) {
	var err error
	for _, dir := range chain {
		var text []byte
		if text, err = readFile(fsys, path.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return text, err
		}
	}
	return nil, fmt.Errorf("%s is in none of %s: %w", name, strings.Join(chain, ", "), err)
}

func checkSteps(steps []manifestStep, bad func(field, problem, fix string)) {
	if len(steps) == 0 || len(steps) > maxSteps {
		bad("steps", fmt.Sprintf("has %d steps", len(steps)), fmt.Sprintf("list 1 to %d", maxSteps))
	}
	seen := map[string]bool{"checks": true}
	for _, step := range steps {
		if !namePattern.MatchString(step.Name) || seen[step.Name] {
			bad("steps", fmt.Sprintf("name %q is empty, taken or not made of lower-case letters, digits, dashes", step.Name), "choose another")
		}
		seen[step.Name] = true
	}
}

func checkParams(params map[string]string, bad func(field, problem, fix string)) {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if !envPattern.MatchString(name) || strings.HasPrefix(name, "GUEST_") || strings.HasPrefix(name, "INSTALLER_") {
			bad("params", fmt.Sprintf("%q is not made of upper-case letters, digits, underscores, or begins as slipway's own do", name), "choose another, e.g. SSH_UNIT")
		}
		if strings.ContainsAny(params[name], "\x00\n\r") {
			bad("params", name+" is not one line", "write one line")
		}
	}
}

// checkFiles refuses names that are none, and those of the files that every job has.
func checkFiles(names []string, bad func(field, problem, fix string)) {
	for _, name := range names {
		if !filePattern.MatchString(name) || name == fileHostKey || name == fileAuthorizedKeys || strings.HasPrefix(name, fileChecks) {
			bad("files", fmt.Sprintf("%q is no plain name, or one of slipway's own", name), "choose another")
		}
	}
}
