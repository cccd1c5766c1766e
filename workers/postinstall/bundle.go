package postinstall

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
)

// Params is what a job does with one machine.
type Params struct {
	Machine        string              // uuid; the machine id follows from it
	Hostname       string              // as the guest will call itself
	AuthorizedKeys []string            // the customer's public keys, one authorized_keys line each
	HostKey        orchestrator.Secret // the machine's own host key, OpenSSH PEM, ed25519 (NewHostKey)
	LockWait       time.Duration       // how long another package manager may hold its lock; 0 is ten minutes
}

// Bundle is a job with everything that it needs in the guest: the same job id always means the same work.
type Bundle struct {
	Job     string // id
	Steps   []Step
	Env     map[string]string              // parameters; names are upper-case, values any text without NUL
	Files   map[string][]byte              // by name; stay with the job
	Secrets map[string]orchestrator.Secret // by name; gone from the guest once the job has succeeded
}

const defaultLockWait = 10 * time.Minute

// Names of files that every job has, and how those begin that check an add-on.
const (
	fileHostKey        = "ssh_host_ed25519_key.pub"
	fileAuthorizedKeys = "authorized_keys"
	fileChecks         = "checks-"
)

var (
	uuidPattern     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	hostnamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	jobPattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,99}$`)
	envPattern      = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	filePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
)

// MachineID is the /etc/machine-id of a machine: its uuid without dashes, so that it is known before the first boot, never changes and
// is nobody else's.
func MachineID(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }

// Bundle makes the work for one machine. Everything in params is checked again here, for it ends up on a machine as root: a bad one is a
// Permanent error that names the field.
func (e Entry) Bundle(job string, params Params) (Bundle, error) {
	const op = "postinstall.Bundle"
	wait := params.LockWait
	if wait == 0 {
		wait = defaultLockWait
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(uuidPattern.MatchString(params.Machine), "machine: %q is no uuid", params.Machine)
	check(hostnamePattern.MatchString(params.Hostname) && len(params.Hostname) <= 64, "hostname: %q is no name of at most 64 letters, digits, dashes and dots", params.Hostname)
	check(len(params.AuthorizedKeys) > 0, "keys: the customer has none and could not log in")
	check(wait > 0 && wait <= time.Hour, "lock wait: %s is not within an hour", wait)
	for i, line := range params.AuthorizedKeys {
		_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		check(err == nil && len(rest) == 0 && !strings.ContainsAny(line, "\n\r\x00"), "keys: number %d is no public key on one line", i+1)
	}
	public, fingerprint, err := publicLine(params.HostKey)
	check(err == nil, "host key: %v", err)
	if err := errors.Join(errs...); err != nil {
		return Bundle{}, orchestrator.E(op, orchestrator.Permanent, err)
	}

	bundle := Bundle{
		Job:   job,
		Steps: e.Steps,
		Env: map[string]string{
			"GUEST_HOSTNAME":   params.Hostname,
			"GUEST_MACHINE_ID": MachineID(params.Machine),
			"GUEST_USER":       e.Account,
			"GUEST_HOST_KEY":   fingerprint,
			"GUEST_PACKAGES":   strings.Join(e.Packages, " "),
			"GUEST_LOCK_WAIT":  strconv.Itoa(int(wait / time.Second)),
		},
		Files: map[string][]byte{
			fileHostKey:        []byte(public + "\n"),
			fileAuthorizedKeys: []byte(strings.Join(params.AuthorizedKeys, "\n") + "\n"),
		},
		Secrets: map[string]orchestrator.Secret{"ssh_host_ed25519_key": params.HostKey},
	}
	maps.Copy(bundle.Env, e.Params)
	maps.Copy(bundle.Files, e.Files)
	return bundle, orchestrator.E(op, orchestrator.Permanent, bundle.Validate())
}

// Validate says whether a bundle can be sent to a guest: its names become file names and shell variables there.
func (b Bundle) Validate() error {
	if err := CheckJobID(b.Job); err != nil {
		return err
	}
	if len(b.Steps) == 0 || len(b.Steps) > maxSteps+1 {
		return fmt.Errorf("job %s has %d steps: give it 1 to %d", b.Job, len(b.Steps), maxSteps+1)
	}
	for _, step := range b.Steps {
		if !namePattern.MatchString(step.Name) || step.Timeout < time.Second {
			return fmt.Errorf("job %s: step %q has no proper name or no timeout of a second or more", b.Job, step.Name)
		}
	}
	for name, value := range b.Env {
		if !envPattern.MatchString(name) || strings.Contains(value, "\x00") {
			return fmt.Errorf("job %s: parameter %q has no upper-case name, or its value holds a NUL", b.Job, name)
		}
	}
	for name, content := range b.Files {
		if !filePattern.MatchString(name) || len(content) > maxFile {
			return fmt.Errorf("job %s: file %q has no plain name, or is longer than %d bytes", b.Job, name, maxFile)
		}
	}
	for name, content := range b.Secrets {
		if !filePattern.MatchString(name) || len(content.Reveal()) > maxFile {
			return fmt.Errorf("job %s: secret file %q has no plain name, or is longer than %d bytes", b.Job, name, maxFile)
		}
	}
	return nil
}

// CheckJobID says whether an id can name a job in a guest.
func CheckJobID(id string) error {
	if !jobPattern.MatchString(id) {
		return fmt.Errorf("job id %q: use at most 100 lower-case letters, digits, dashes", id)
	}
	return nil
}
