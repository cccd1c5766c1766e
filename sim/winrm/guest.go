package winrm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// runnerMark begins the bootstrap that slipway's installer sends as -EncodedCommand.
const runnerMark = "# slipway runner 1\n"

// Exit codes of the runner, and of a step that wants a restart.
const (
	exitUsage   = 64
	exitNoJob   = 65
	exitLater   = 75
	exitRestart = 3010 // ERROR_SUCCESS_REBOOT_REQUIRED
)

// guest is what a restart does not change, and the jobs.
type guest struct {
	server *Server

	mu       sync.Mutex
	computer string
	pending  string            // the name from the next boot on
	accounts map[string]string // upper-case name → password
	sid      string
	cert     *tls.Certificate
	facts    map[string]bool // what the catalogue's steps have done
	jobs     map[string]*job
}

// job is a folder below C:\ProgramData\slipway\jobs and the process that works in it.
type job struct {
	bundle  bundle
	claimed bool
	running bool
	restart bool // has asked for a restart and goes on after it
	exit    *int
	stage   string
	log     []byte
	done    map[string]bool
	ended   int // order of the ends
	cancel  context.CancelFunc
}

type bundle struct {
	Job    string            `json:"job"`
	Params map[string]string `json:"params"`
	Steps  []struct {
		Name    string `json:"name"`
		Seconds int    `json:"seconds"`
		Script  []byte `json:"script"`
	} `json:"steps"`
	Files   map[string][]byte `json:"files"`
	Secrets map[string][]byte `json:"secrets"`
}

func newGuest(s *Server) *guest {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return &guest{
		server: s, computer: s.config.Name, accounts: map[string]string{strings.ToUpper(s.config.User): s.config.Password.Reveal()},
		sid:  fmt.Sprintf("S-1-5-21-%d-%d-%d", binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])),
		cert: s.config.Certificate, facts: map[string]bool{}, jobs: map[string]*job{},
	}
}

func (g *guest) name() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.computer
}

func (g *guest) certificate() tls.Certificate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return *g.cert
}

// password finds a local account's; names are of any case.
func (g *guest) password(user string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.accounts[strings.ToUpper(user)]
	return p, ok && p != ""
}

func (g *guest) knows(user, password string) bool {
	want, ok := g.password(user)
	return ok && subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
}

// down is the end of all processes.
func (g *guest) down() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, j := range g.jobs {
		j.running = false
		if j.cancel != nil {
			j.cancel()
		}
	}
}

func (g *guest) killAll() { g.down() }

// up is a boot: a new name takes effect, and jobs that asked for the restart go on.
func (g *guest) up() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending != "" {
		g.computer, g.pending = g.pending, ""
	}
	for id, j := range g.jobs {
		if j.restart {
			j.restart = false
			g.launch(id, j)
		}
	}
}

// launch begins a job's process. g.mu is held.
func (g *guest) launch(id string, j *job) {
	ctx, cancel := context.WithCancel(g.server.ctx)
	j.claimed, j.running, j.cancel = true, true, cancel
	g.server.wg.Go(func() {
		defer cancel()
		g.work(ctx, id, j)
	})
}

// KillJob ends a job's process as a crash does, without an exit code.
func (s *Server) KillJob(id string) {
	s.guest.mu.Lock()
	defer s.guest.mu.Unlock()
	if j := s.guest.jobs[id]; j != nil && j.cancel != nil {
		j.running = false
		j.cancel()
	}
}

// Password tells an account's, for tests: "" when there is no such account.
func (s *Server) Password(user string) string {
	p, _ := s.guest.password(user)
	return p
}

// Facts lists what the steps of jobs have made so, sorted.
func (s *Server) Facts() []string {
	s.guest.mu.Lock()
	defer s.guest.mu.Unlock()
	return slices.Sorted(maps.Keys(s.guest.facts))
}

// Upload is what came with a job: its parameters, and its scripts and files by name.
type Upload struct {
	Params         map[string]string
	Scripts, Files map[string][]byte
}

// Uploaded tells what came with a job; nothing when there is no such job.
func (s *Server) Uploaded(job string) (u Upload) {
	s.guest.mu.Lock()
	defer s.guest.mu.Unlock()
	j := s.guest.jobs[job]
	if j == nil {
		return u
	}
	u = Upload{Params: maps.Clone(j.bundle.Params), Scripts: map[string][]byte{}, Files: maps.Clone(j.bundle.Files)}
	for _, step := range j.bundle.Steps {
		u.Scripts[step.Name] = step.Script
	}
	return u
}

// Secrets lists the secret files that lie in the guest.
func (s *Server) Secrets() []string {
	s.guest.mu.Lock()
	defer s.guest.mu.Unlock()
	var names []string
	for _, j := range s.guest.jobs {
		names = append(names, slices.Sorted(maps.Keys(j.bundle.Secrets))...)
	}
	return names
}

// work is the runner's verb `job`.
func (g *guest) work(ctx context.Context, id string, j *job) {
	for _, step := range j.bundle.Steps {
		g.mu.Lock()
		skip := j.done[step.Name]
		if !skip {
			j.stage = step.Name
			j.log = append(j.log, "== "+step.Name+"\n"...)
		}
		g.mu.Unlock()
		if skip {
			continue
		}
		output, code := g.step(ctx, id, j, step.Name)
		if ctx.Err() != nil {
			return // the process is gone, and says nothing more
		}
		g.mu.Lock()
		j.log = append(j.log, output...)
		if code == exitRestart {
			j.done[step.Name], j.restart, j.running, j.stage = true, true, false, "restart"
			j.log = append(j.log, "== "+step.Name+" wants a restart\n"...)
			g.mu.Unlock()
			timer := time.NewTimer(g.server.config.Grace)
			defer timer.Stop()
			select {
			case <-timer.C:
				g.server.Restart()
			case <-ctx.Done(): // switched off, or restarted by somebody else
			}
			return
		}
		if code != 0 {
			j.log = append(j.log, fmt.Sprintf("== %s failed with exit code %d\n", step.Name, code)...)
			g.finish(j, code)
			g.mu.Unlock()
			return
		}
		j.done[step.Name] = true
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j.bundle.Secrets = nil
	j.log = append(j.log, "== done\n"...)
	g.finish(j, 0)
}

// finish writes the exit code. g.mu is held.
func (g *guest) finish(j *job, code int) {
	for _, other := range g.jobs {
		j.ended = max(j.ended, other.ended+1)
	}
	j.exit, j.running = &code, false
}

// step is this guest's picture of the catalogue's windows-server scripts.
func (g *guest) step(ctx context.Context, id string, j *job, name string) (string, int) {
	if g.server.config.Step != nil {
		if output, code, handled := g.server.config.Step(ctx, id, name); handled {
			if code == 0 || code == exitRestart {
				g.mu.Lock()
				g.facts[name] = true
				g.mu.Unlock()
			}
			return output, code
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch name {
	case "certificate":
		key, cert, err := pkcs12.Decode(j.bundle.Secrets["certificate.pfx"], string(j.bundle.Secrets["certificate.password"]))
		if err != nil {
			return "certificate.pfx cannot be read\n", 1
		}
		g.cert = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
		g.facts["certificate "+pin(cert.Raw)] = true
	case "administrator":
		g.accounts["ADMINISTRATOR"] = string(j.bundle.Secrets["administrator"])
	case "hostname":
		want := strings.ToUpper(j.bundle.Params["computer"])
		if g.computer != want {
			g.pending = want
			return "computer name set to " + want + "\n", exitRestart
		}
	case "checks":
		return g.checks(j)
	}
	g.facts[name] = true
	return name + " done\n", 0
}

// checks prints what checks.ps1 prints. g.mu is held.
func (g *guest) checks(j *job) (string, int) {
	var out strings.Builder
	code := 0
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"hostname", g.computer == strings.ToUpper(j.bundle.Params["computer"])},
		{"certificate", g.cert == nil || strings.EqualFold(pin(g.cert.Certificate[0]), j.bundle.Params["certificate"])},
		{"administrator", g.accounts["ADMINISTRATOR"] != ""},
		{"disk", g.facts["disk"]}, {"rdp", g.facts["rdp"]}, {"firewall", g.facts["firewall"]}, {"license", g.facts["license"]},
	} {
		if c.ok {
			out.WriteString(c.name + "=ok\n")
		} else {
			out.WriteString(c.name + "=failed: it is not so\n")
			code = 1
		}
	}
	return out.String(), code
}

// runner is the guest's side of one call: three lines come in, one goes out.
func (g *guest) runner(stdin string) (string, int) {
	answer, code := g.verb(stdin)
	answer["code"] = code
	text, err := json.Marshal(answer)
	if err != nil {
		return "", 1
	}
	return "slipway:" + base64.StdEncoding.EncodeToString(text) + "\r\n", code
}

var jobID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,99}$`)

func (g *guest) verb(stdin string) (map[string]any, int) {
	no := func(code int, format string, args ...any) (map[string]any, int) {
		return map[string]any{"error": fmt.Sprintf(format, args...)}, code
	}
	lines := strings.Split(strings.ReplaceAll(stdin, "\r", ""), "\n")
	if len(lines) < 3 {
		return no(exitUsage, "the call is cut off")
	}
	if _, err := base64.StdEncoding.DecodeString(lines[0]); err != nil {
		return no(exitUsage, "the runner is not base64")
	}
	words := append(strings.Fields(lines[1]), "", "", "")
	verb, id, arg := words[0], words[1], words[2]
	if verb == "probe" {
		setup := "IMAGE_STATE_COMPLETE"
		if g.server.answer() == Setup {
			setup = "IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE"
		}
		return map[string]any{"setup": setup, "system": "Windows (simulated)", "name": g.name()}, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch verb {
	case "inspect":
		return g.inspect()
	case "leave":
		g.jobs = map[string]*job{}
		delete(g.accounts, strings.ToUpper(g.server.config.User))
		return map[string]any{}, 0
	}
	if !jobID.MatchString(id) {
		return no(exitUsage, "job id is not made of lower-case letters, digits and dashes")
	}
	j := g.jobs[id]
	switch verb {
	case "upload":
		if j != nil {
			return map[string]any{}, 0
		}
		packed, err := base64.StdEncoding.DecodeString(lines[2])
		if sum := sha256.Sum256(packed); err != nil || hex.EncodeToString(sum[:]) != arg {
			return no(1, "the upload is cut off")
		}
		j = &job{done: map[string]bool{}}
		if err := json.Unmarshal(packed, &j.bundle); err != nil {
			return no(1, "the upload is no bundle: %v", err)
		}
		g.jobs[id] = j
		return map[string]any{}, 0
	case "start":
		if j == nil {
			return no(exitNoJob, "job %s was not uploaded", id)
		}
		if j.claimed || j.exit != nil {
			return map[string]any{}, 0
		}
		for other, o := range g.jobs {
			if o.running || o.restart {
				return no(exitLater, "job %s still runs", other)
			}
		}
		g.launch(id, j)
		return map[string]any{}, 0
	case "observe":
		return g.observe(j, arg)
	}
	return no(exitUsage, "unknown verb")
}

// maxLog is how much of a log one answer carries.
const maxLog = 64 << 10

func (g *guest) observe(j *job, arg string) (map[string]any, int) {
	offset, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || offset < 0 {
		return map[string]any{"error": "the offset is no number"}, exitUsage
	}
	if j == nil {
		return map[string]any{"state": "unknown", "exit": 0, "stage": "", "log": ""}, 0
	}
	state, code := "unknown", 0
	switch {
	case j.exit != nil:
		state, code = "exited", *j.exit
	case j.running || j.restart:
		state = "running"
	case j.claimed:
		state = "lost"
	}
	part := j.log[min(offset, int64(len(j.log))):]
	return map[string]any{"state": state, "exit": code, "stage": j.stage, "log": part[:min(len(part), maxLog)]}, 0
}

func (g *guest) inspect() (map[string]any, int) {
	var newest *job
	for _, j := range g.jobs {
		if j.exit != nil && *j.exit == 0 && (newest == nil || j.ended > newest.ended) {
			newest = j
		}
	}
	if newest == nil {
		return map[string]any{"error": "no job has succeeded here"}, exitNoJob
	}
	out, _ := g.checks(newest)
	return map[string]any{"identity": g.sid, "output": []byte(out)}, 0
}
