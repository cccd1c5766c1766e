package winrm

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

// Names of a job's secret files, as the catalogue's scripts read them.
const (
	secretCertificate = "certificate.pfx"
	secretPassword    = "certificate.password"
	secretAdmin       = "administrator"
)

var (
	uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
)

// newBundle makes the work for one machine. What is wrong with a job is reported all together.
func newBundle(entry postinstall.Entry, g orchestrator.Guest, job orchestrator.Job, now time.Time) (postinstall.Bundle, error) {
	var errs []error
	if !uuidPattern.MatchString(g.Machine) {
		errs = append(errs, fmt.Errorf("machine: %q is no uuid", g.Machine))
	}
	errs = append(errs, CheckHostname(job.Hostname), CheckPassword(job.AdministratorPassword))
	if err := errors.Join(errs...); err != nil {
		return postinstall.Bundle{}, err
	}
	computer, suffix, _ := strings.Cut(strings.ToLower(job.Hostname), ".")
	pfx, password, sha, err := newCertificate(job.HostKeySecret, strings.ToLower(job.Hostname), now)
	if err != nil {
		return postinstall.Bundle{}, err
	}
	b := postinstall.Bundle{
		Job:     job.ID,
		Steps:   entry.Steps,
		Env:     map[string]string{},
		Files:   entry.Files,
		Secrets: map[string]orchestrator.Secret{secretCertificate: pfx, secretPassword: password, secretAdmin: job.AdministratorPassword},
	}
	maps.Copy(b.Env, entry.Params)
	// The job's own come last: no constant of the entry stands in their place.
	maps.Copy(b.Env, map[string]string{
		"MACHINE": g.Machine, "COMPUTER": computer, "SUFFIX": suffix, "HOSTNAME": strings.ToLower(job.Hostname), "CERTIFICATE": sha, "ACCOUNT": entry.User,
	})
	return b, b.Validate()
}

// maxBundle stays below the 2 MiB of JSON that Windows PowerShell 5.1 reads.
const maxBundle = 1 << 20

// pack writes a bundle as the runner reads it, and its SHA-256: half an upload is no job.
func pack(b postinstall.Bundle) (packed []byte, sum string, err error) {
	type step struct {
		Name    string `json:"name"`
		Seconds int    `json:"seconds"`
		Script  []byte `json:"script"`
	}
	out := struct {
		Job     string            `json:"job"`
		Params  map[string]string `json:"params"`
		Steps   []step            `json:"steps"`
		Files   map[string][]byte `json:"files"`
		Secrets map[string][]byte `json:"secrets"`
	}{Job: b.Job, Params: map[string]string{}, Files: b.Files, Secrets: map[string][]byte{}}
	for name, value := range b.Env {
		out.Params[strings.ToLower(name)] = value
	}
	for _, s := range b.Steps {
		out.Steps = append(out.Steps, step{s.Name, int(s.Timeout / time.Second), script(s.Script)})
	}
	for name, s := range b.Secrets {
		out.Secrets[name] = []byte(s.Reveal())
	}
	if packed, err = json.Marshal(out); err != nil {
		return nil, "", fmt.Errorf("pack job %s: %w", b.Job, err)
	}
	if len(packed) > maxBundle {
		return nil, "", fmt.Errorf("job %s has %d bytes of scripts and files: use at most %d", b.Job, len(packed), maxBundle)
	}
	hash := sha256.Sum256(packed)
	return packed, hex.EncodeToString(hash[:]), nil
}

// script gets a byte order mark: without it Windows PowerShell 5.1 reads a file in the system's code page.
func script(text []byte) []byte {
	return append([]byte("\xef\xbb\xbf"), bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))...)
}

// call is the bootstrap's standard input.
func call(words []string, upload []byte) []byte {
	var b bytes.Buffer
	b.WriteString(base64.StdEncoding.EncodeToString([]byte(runner)))
	b.WriteString("\n" + strings.Join(words, " ") + "\n")
	if upload == nil {
		b.WriteString("-")
	} else {
		b.WriteString(base64.StdEncoding.EncodeToString(upload))
	}
	b.WriteString("\n")
	return b.Bytes()
}
