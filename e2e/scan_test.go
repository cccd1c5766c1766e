package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"slipway/internal/api"
	"slipway/internal/leak"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/workers/console/xvp"
	"slipway/workers/vault"
)

// Every story ends with a search: none of the site's secrets may stand in a log, an answer, the database, a pool, a file of an appliance, or
// the command line or environment of any process that ran meanwhile.

// secretFile says whether a file is where a secret belongs.
func secretFile(name string) bool {
	return strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".password") || strings.HasSuffix(name, ".token")
}

// ownKeys are files with the secret of whose machine they are: an appliance's sshd, the simulated guests, and pools as processes.
var ownKeys = []string{"host_key", "ssh_host_ed25519_key", "spec.json"}

// secrets are all of the site: those in files, those of its machines, and what the story was given. Obfuscated are those that xvp's protocol wants in its file, in
// a form that anybody can turn back; that file is where they belong.
func (s *site) secrets(ctx context.Context) (all, obfuscated leak.Secrets, err error) {
	var bad error
	add := func(name, secret string) { bad = errors.Join(bad, all.Add(name, secret)) }
	hide := func(name, secret string, encrypt func(orchestrator.Secret) (string, error)) {
		hex, err := encrypt(orchestrator.NewSecret(secret))
		bad = errors.Join(bad, err)
		if err == nil {
			bad = errors.Join(bad, obfuscated.Add(name+" as xvp has it", hex))
		}
	}
	for _, dir := range []string{s.dir, s.dhcp.dir, s.firewall.dir, s.console.dir} {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return all, obfuscated, err
		}
		for _, path := range files {
			if !secretFile(path) {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return all, obfuscated, err
			}
			add(filepath.Base(path), string(text))
		}
	}
	for name, secret := range s.given {
		add(name, secret)
	}
	for _, p := range s.pools {
		hide(p.id+".password", p.password, xvp.EncryptXen)
	}
	open, err := vault.New(orchestrator.NewSecret(s.vaultKey))
	if err != nil {
		return all, obfuscated, err
	}
	db, err := store.Open(ctx, s.dsn) // the story's own context has ended
	if err != nil {
		return all, obfuscated, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for after := ""; ; {
		values, next, err := db.SealedValues(ctx, after, 1000)
		if err != nil {
			return all, obfuscated, err
		}
		for _, v := range values {
			plain, err := open.Open(v.Machine, v.Name, v.Sealed)
			if err != nil {
				return all, obfuscated, err
			}
			add(v.Name+" of "+v.Machine, plain.Reveal())
			if v.Name == orchestrator.SealedConsole {
				hide(v.Name+" of "+v.Machine, plain.Reveal(), xvp.EncryptVNC)
			}
		}
		if next == "" {
			return all, obfuscated, bad
		}
		after = next
	}
}

// scan ends the story.
func (s *site) scan() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Minute)
	defer cancel()
	found, looked, err := s.leaks(ctx)
	if err != nil && !s.t.Failed() { // a story that failed may have left no database to ask
		s.t.Errorf("look for secrets: %v", err)
	}
	for _, f := range found {
		s.t.Error("a secret stands in the clear:", f)
	}
	s.t.Logf("looked for secrets in %s", looked)
}

// leaks lists what was found, and says what was looked into.
func (s *site) leaks(ctx context.Context) (found []string, looked string, err error) {
	all, obfuscated, err := s.secrets(ctx)
	if err != nil {
		return nil, "nothing", err
	}
	counts := map[string]int{}
	look := func(kind, where string, text []byte, sets ...*leak.Secrets) {
		counts[kind]++
		for _, set := range sets {
			for _, f := range set.Find(text) {
				found = append(found, kind+" "+where+": "+f)
			}
		}
	}
	for _, w := range s.workers {
		look("log", w.name, []byte(w.Output()), &all, &obfuscated)
	}
	for text, path := range s.watched.seen() {
		look("process", path+" "+clip(text), []byte(text), &all, &obfuscated)
	}
	for _, text := range s.answers {
		look("answer", clip(text), []byte(text), &all, &obfuscated)
	}
	for name, dir := range map[string]string{"site": s.dir, "dhcp": s.dhcp.dir, "firewall": s.firewall.dir, "console": s.console.dir} {
		sets := []*leak.Secrets{&all, &obfuscated}
		if name == "console" {
			sets = sets[:1]
		}
		walked := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || secretFile(path) || slices.Contains(ownKeys, d.Name()) {
				return ignoreGone(err)
			}
			text, err := os.ReadFile(path)
			if err == nil {
				look("file", name+"/"+d.Name(), text, sets...)
			}
			return ignoreGone(err)
		})
		if walked != nil {
			return found, "", walked
		}
	}
	for _, p := range s.pools {
		for _, class := range []string{"VM", "VDI", "VIF", "VBD", "task", "host", "SR", "message"} {
			var records json.RawMessage
			if err := p.local.Call(ctx, class+".get_all_records", &records); err != nil {
				continue // a class that the simulator does not have, or a pool that the story took away
			}
			look("records", p.id+" "+class, records, &all, &obfuscated)
		}
	}
	if strings.HasPrefix(s.dsn, "postgres") {
		tables, err := dump(ctx, s.dsn)
		if err != nil {
			return found, "", err
		}
		for table, text := range tables {
			look("table", table, []byte(text), &all, &obfuscated)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), fmt.Sprintf("%v, for %d secrets", counts, all.Len()+obfuscated.Len()), nil
}

func clip(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", " "), "?")
	return text[:min(len(text), 60)]
}

func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// dump is every table as text: bytes are hex in it.
func dump(ctx context.Context, dsn string) (map[string]string, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	var names string
	err = db.QueryRowContext(ctx, `SELECT string_agg(table_name, ' ') FROM information_schema.tables WHERE table_schema = 'public'`).Scan(&names)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, name := range strings.Fields(names) {
		var text string
		if err := db.QueryRowContext(ctx, `SELECT COALESCE(string_agg(t::text, E'\n'), '') FROM `+name+` t`).Scan(&text); err != nil {
			return nil, err
		}
		out[name] = text
	}
	return out, nil
}

// watched collects the command lines and environments of processes, also of those that live for a moment.
type watched struct {
	mu   sync.Mutex
	text map[string]string // to where it was met first
}

// others mark who has a password of his own: the example panel in its environment, and a simulated pool in its command line.
var others = [][]byte{[]byte("SLIPWAY_AMQP_URL="), []byte("\x00sim\x00xapi\x00")}

// looks is how often a process is looked at: it may have been forked and not begun yet.
const looks = 5

// watch begins to look at every process of this machine until the test ends.
func (s *site) watch() {
	s.watched = &watched{text: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		looked := map[string]int{}
		for {
			s.watched.look(looked)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (w *watched) look(looked map[string]int) {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, pid := range names {
		if _, err := strconv.Atoi(pid); err != nil || looked[pid] >= looks {
			continue
		}
		looked[pid]++
		for _, what := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(filepath.Join("/proc", pid, what))
			if err != nil || len(text) == 0 || slices.ContainsFunc(others, func(mark []byte) bool { return bytes.Contains(text, mark) }) {
				continue
			}
			w.mu.Lock()
			if _, known := w.text[string(text)]; !known {
				w.text[string(text)] = pid + " " + what
			}
			w.mu.Unlock()
		}
	}
}

// seen is each text with where it was met.
func (w *watched) seen() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]string, len(w.text))
	for text, where := range w.text {
		out[text] = where
	}
	return out
}

// ask keeps what a worker says over HTTP at the end of its life.
func (s *site) ask(w *worker) {
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		if text, err := s.get(w.listen, path); err == nil {
			s.answers = append(s.answers, path+"\n"+text)
		}
	}
}

func (s *site) get(at, path string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		s.manager.Do(func() { conn, err = net.DialTimeout("tcp4", at, 5*time.Second) })
		return conn, err
	}}}
	response, err := client.Get("http://" + at + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	return string(text), err
}

// TestSearchForSecretsFindsThem puts a secret into each place that the search looks into: one that finds nothing proves nothing by itself.
func TestSearchForSecretsFindsThem(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	s := newSite(t, siteConfig{pools: 1})
	s.scanned = true // here, and not at the end: it does find something
	w := s.serve("worker")
	planted := map[string]string{}
	plant := func(kind string) string {
		planted[kind] = rand.Text()
		s.write(kind+".token", planted[kind])
		return planted[kind]
	}

	out, err := s.manager.Run(t.Context(), s.program, "--config", filepath.Join(s.dir, "worker.yaml"), "show", plant("answer")) // which says it again
	if err == nil {
		t.Errorf("there is such a machine: %s", out)
	}
	s.answers = append(s.answers, out)
	s.manager.Start("sh", "-c", "sleep 60; true", plant("cmdline"))
	s.manager.Start("env", "PASSWORD="+plant("environ"), "sleep", "60")
	s.read(func(ctx context.Context, db orchestrator.Store) error {
		return db.RecordAct(ctx, "0:root", "try", "it", plant("database"))
	})
	s.dhcp.write("note", `{"said":"`+plant("file")+`"}`, 0o600)
	var plan api.Plan
	if err := w.api.Get(t.Context(), "/v1/plan", &plan); err != nil {
		t.Fatal(err)
	}
	reason := base64.StdEncoding.EncodeToString([]byte(plant("log")))
	if err := w.api.Post(t.Context(), "/v1/plan/apply", api.ApplyPlan{Hash: plan.Hash, Yes: true, Reason: reason}, nil); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 30*time.Second, "the worker to log why", func() bool { return w.said(reason) })
	testnet.Until(t, 30*time.Second, "both processes to be seen", func() bool {
		n := 0
		for text, where := range s.watched.seen() {
			if strings.Contains(text, planted["cmdline"]) && strings.HasSuffix(where, "cmdline") || strings.Contains(text, planted["environ"]) && strings.HasSuffix(where, "environ") {
				n++
			}
		}
		return n >= 2
	})
	s.ask(w)
	found, looked, err := s.leaks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(found, "\n")
	for kind := range planted {
		if !strings.Contains(all, ": "+kind+".token (") {
			t.Errorf("what was put into %s is not found", kind)
		}
	}
	if !strings.Contains(looked, "answer:") || !strings.Contains(looked, "records:") {
		t.Errorf("looked into %s only", looked)
	}
	t.Logf("%s:\n%s", looked, all)
}
