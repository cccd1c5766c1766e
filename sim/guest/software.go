package guest

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// rpm is `rpm -q --quiet -- NAME`.
func rpm(v *invocation) int {
	_, names := operands(v.args)
	if len(names) != 1 || !slices.Contains(v.args, "-q") {
		return v.fail(1, "only -q --quiet -- NAME is simulated")
	}
	if !v.guest.Installed(names[0]) {
		return 1
	}
	return 0
}

// dnf is `dnf … install -- NAME...`. It would wait for a lock that somebody holds; here it fails.
func dnf(v *invocation) int {
	return v.installAll(200, "Waiting for process with pid %d to finish: %s")
}

// zypper is `zypper … install … -- NAME...`; a lock that somebody holds makes it fail.
func zypper(v *invocation) int {
	return v.installAll(7, "System management is locked by the application with pid %d (%s).")
}

func (v *invocation) installAll(lockedCode int, locked string) int {
	g := v.guest
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder != "" {
		return v.fail(lockedCode, locked, holderPID, g.holder)
	}
	i := slices.Index(v.args, "--")
	if i < 0 || !slices.Contains(v.args[:i], "install") {
		return v.fail(exitMisuse, "only install -- NAME... is simulated")
	}
	for _, name := range v.args[i+1:] {
		g.packages[name] = true
		fmt.Fprintf(v.stdout, "Installing: %s\n", name)
	}
	return 0
}

// restorecon gives files their labels: `restorecon [-R] -F -- PATH...`. With -n -v it names those that have another one: every file
// that was written since, for the folder's label is what a new file gets.
func restorecon(v *invocation) int {
	options, names := operands(v.args)
	v.guest.mu.Lock()
	defer v.guest.mu.Unlock()
	for _, name := range names {
		if has(options, "n") {
			if !v.guest.labeled[path.Clean(name)] && !strings.HasPrefix(name, "/etc/ssh") {
				fmt.Fprintf(v.stdout, "Would relabel %s from unlabeled_t\n", name)
			}
			continue
		}
		if _, err := v.disk().Stat(v.path(name)); err != nil {
			return v.fail(255, "lstat(%s) failed: %v", name, cause(err))
		}
		v.guest.labeled[path.Clean(name)] = true
	}
	return 0
}

// curl is `curl … --output FILE -- URL`; who answers is the guest's configuration.
func curl(v *invocation) int {
	const couldNotResolve, httpError = 6, 22
	_, names := operands(v.args)
	i := slices.Index(v.args, "--output")
	if i < 0 || i+1 >= len(v.args) || len(names) == 0 {
		return v.fail(exitMisuse, "only --output FILE -- URL is simulated")
	}
	if v.guest.fetch == nil {
		return v.fail(couldNotResolve, "Could not resolve host")
	}
	text, err := v.guest.fetch(v.ctx, names[len(names)-1])
	if err != nil {
		return v.fail(httpError, "%v", err)
	}
	if err := v.disk().WriteFile(v.path(v.args[i+1]), text, 0o600); err != nil {
		return v.failWith(err)
	}
	return 0
}

// sha256Sum is `sha256sum -- FILE`.
func sha256Sum(v *invocation) int {
	_, names := operands(v.args)
	if len(names) != 1 {
		return v.fail(1, "only one file is simulated")
	}
	text, err := v.disk().ReadFile(v.path(names[0]))
	if err != nil {
		return v.fail(1, "%s: %v", names[0], cause(err))
	}
	fmt.Fprintf(v.stdout, "%x  %s\n", sha256.Sum256(text), names[0])
	return 0
}

// date is `date +%Y%m%d`; any other format prints nothing.
func date(v *invocation) int {
	if slices.Equal(v.args, []string{"+%Y%m%d"}) {
		fmt.Fprintln(v.stdout, time.Now().UTC().Format("20060102"))
	}
	return 0
}
