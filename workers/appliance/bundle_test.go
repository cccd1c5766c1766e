package appliance

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"slipway/orchestrator"
	"slipway/store"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const groupID = "dhcp-a"

// bundle is one group over a real store and real agents, whose unit is a file of one line per machine.
type bundle struct {
	testing.TB
	store orchestrator.Store
	path  string // of the database
	group Group
	boxes []*box
	cfg   Config
	n     int
	runs  map[string]orchestrator.Claim // by machine
}

// box is an appliance: a real agent over a directory, behind a carrier that can be watched and taken away.
type box struct {
	dir     string
	agent   *agent.Agent
	mu      sync.Mutex
	away    bool
	words   string              // with which it is away
	hangs   bool                // it takes the request and never answers
	lie     func(*apply.Answer) // about what it did, when set
	asked   []apply.Request
	answers []apply.Answer
	gate    func(apply.Request) // called before each apply, when set
	lineno  bool                // the tool names the line
	broken  bool                // the tool refuses everything: the site's own file is broken
}

func (b *box) Apply(ctx context.Context, r apply.Request) (apply.Answer, error) {
	b.mu.Lock()
	away, gate, hangs, lie, words := b.away, b.gate, b.hangs, b.lie, cmp.Or(b.words, "no route to host")
	b.asked = append(b.asked, r)
	b.mu.Unlock()
	if away {
		return apply.Answer{}, errors.New(words)
	}
	if gate != nil {
		gate(r)
	}
	if hangs {
		<-ctx.Done()
		return apply.Answer{}, ctx.Err()
	}
	answer, err := carrier.Local{Agent: b.agent}.Apply(ctx, r)
	if lie != nil {
		lie(&answer)
	}
	b.mu.Lock()
	b.answers = append(b.answers, answer)
	b.mu.Unlock()
	return answer, err
}

func (b *box) set(change func(*box)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// applies are the requests that were not only checks.
func (b *box) applies() []apply.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []apply.Request
	for _, r := range b.asked {
		if !r.CheckOnly {
			out = append(out, r)
		}
	}
	return out
}

func (b *box) live(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "hosts.conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Fatal(err)
	}
	return string(text)
}

// Targets, Check, Reload and Prove are the agent's unit: a tool that refuses each machine whose text begins with "bad".
func (b *box) Targets() map[string]agent.Target {
	return map[string]agent.Target{"hosts.conf": {Path: filepath.Join(b.dir, "hosts.conf")}}
}

func (b *box) Check(_ context.Context, dir string) error {
	b.mu.Lock()
	broken, lineno := b.broken, b.lineno
	b.mu.Unlock()
	if broken {
		return &agent.Fault{Message: "main file, line 1: syntax error"}
	}
	text, err := os.ReadFile(filepath.Join(dir, "hosts.conf"))
	if err != nil {
		return err
	}
	for i, line := range strings.Split(string(text), "\n") {
		if strings.Contains(line, " bad") {
			if lineno {
				return &agent.Fault{File: "hosts.conf", Line: i + 1, Message: fmt.Sprintf("line %d: semicolon expected", i+1)}
			}
			return &agent.Fault{Message: "there is an error somewhere"}
		}
	}
	return nil
}

func (b *box) Reload(context.Context, agent.Change) error { return nil }
func (b *box) Prove(context.Context) error                { return nil }

// render writes a header and a line per machine; it refuses the second of two equal texts that begin with "dup".
func render(texts []Text) (Rendering, map[string]string, error) {
	lines, owners, seen, bad := []string{"# ours"}, []string{""}, map[string]string{}, map[string]string{}
	for _, t := range texts {
		var word string
		if err := json.Unmarshal(t.Body, &word); err != nil {
			return Rendering{}, nil, err
		}
		if first, twice := seen[word]; twice && strings.HasPrefix(word, "dup") {
			bad[t.Machine], bad[first] = "the same as another's", "the same as another's"
		}
		seen[word] = t.Machine
		lines, owners = append(lines, t.Machine+" "+word), append(owners, t.Machine)
	}
	if len(bad) > 0 {
		return Rendering{}, bad, nil
	}
	return Rendering{
		Files: []apply.File{{Name: "hosts.conf", Content: strings.Join(lines, "\n") + "\n"}},
		Owner: func(_ string, line int) string {
			if line < 1 || line > len(owners) {
				return ""
			}
			return owners[line-1]
		},
	}, nil, nil
}

func setup(t *testing.T, members, minApplied int) *bundle {
	t.Helper()
	b := &bundle{TB: t, path: filepath.Join(t.TempDir(), "slipway.db"), runs: map[string]orchestrator.Claim{}}
	must(t, store.Migrate(t.Context(), "sqlite:"+b.path))
	s, err := store.Open(t.Context(), "sqlite:"+b.path)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	b.store = s
	b.group = Group{ID: groupID, Unit: orchestrator.DHCP, Render: render, Interval: time.Millisecond}
	var known []orchestrator.Member
	for i := range members {
		x := &box{dir: t.TempDir(), lineno: true}
		x.agent, err = agent.New(agent.Config{StateDir: filepath.Join(x.dir, "state"), Units: map[string]agent.Settings{"dhcp": {Driver: "lines"}}},
			agent.Registry{"lines": func(agent.Settings) (agent.Unit, error) { return x, nil }}, nil)
		must(t, err)
		b.boxes = append(b.boxes, x)
		name := fmt.Sprintf("dhcp-%d", i+1)
		b.group.Members = append(b.group.Members, Member{Name: name, Carrier: x})
		known = append(known, orchestrator.Member{Group: groupID, Name: name})
	}
	must(t, s.SyncGroups(t.Context(), []orchestrator.Group{{ID: groupID, Unit: orchestrator.DHCP, MinApplied: minApplied}}, known))
	b.cfg = Config{Store: s, Groups: []Group{b.group}, Holder: "worker-1", Log: slog.New(slog.DiscardHandler)}
	return b
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// machine is a new one whose run is in our hands.
func (b *bundle) machine() string {
	b.Helper()
	b.n++
	id, now := uuid.NewString(), time.Now()
	o := orchestrator.Order{Source: "panel", ID: fmt.Sprint(b.n), Type: orchestrator.OrderInstall, Tenant: "acme", Name: fmt.Sprintf("web-%d", b.n), Image: "debian-12",
		Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10}}
	accepted, err := b.store.Accept(b.Context(), orchestrator.Acceptance{
		Order: o, Actor: "test", Now: now,
		Machine: orchestrator.Machine{ID: id, Tenant: o.Tenant, Name: o.Name, Hostname: o.Name, Image: o.Image, Plan: o.Plan, Presence: orchestrator.Planned, State: "queued",
			CreatedAt: now, UpdatedAt: now},
		Run: orchestrator.Run{ID: uuid.NewString(), Machine: id, Process: "install", State: "queued", Status: orchestrator.StatusReady, Step: "place", RowHash: "h", Attempt: 1,
			StepSince: now, Order: orchestrator.OrderKey{Source: o.Source, ID: o.ID}, CreatedAt: now, UpdatedAt: now},
	})
	must(b, err)
	claim, err := b.store.ClaimRun(b.Context(), accepted.Run, "test", time.Hour)
	must(b, err)
	b.runs[id] = claim
	return id
}

// put makes a machine with a text.
func (b *bundle) put(text string) string {
	b.Helper()
	id := b.machine()
	b.change(id, text)
	return id
}

// puts makes so many machines of their own.
func (b *bundle) puts(n int) (ids []string) {
	b.Helper()
	for i := range n {
		ids = append(ids, b.put(fmt.Sprint("host-", i)))
	}
	return ids
}

func (b *bundle) change(machine, text string) {
	b.Helper()
	body, err := json.Marshal(text)
	must(b, err)
	b.commit(machine, orchestrator.PutEntry{Group: groupID, Unit: orchestrator.DHCP, Body: body})
}

func (b *bundle) drop(machine string) {
	b.Helper()
	b.commit(machine, orchestrator.DropEntry{Group: groupID})
}

// lose takes entries away as a damaged database does: no run has said so.
func (b *bundle) lose(machines ...string) {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+b.path)
	must(b, err)
	defer db.Close()
	for _, machine := range machines {
		_, err := db.ExecContext(b.Context(), `DELETE FROM entries WHERE machine = $1`, machine)
		must(b, err)
	}
	_, err = db.ExecContext(b.Context(), `UPDATE appliance_groups SET generation = generation + 1`)
	must(b, err)
}

func (b *bundle) commit(machine string, change orchestrator.Change) {
	b.Helper()
	must(b, b.store.Commit(b.Context(), []orchestrator.Commit{{Run: b.runs[machine].Run, Changes: []orchestrator.Change{change}}})[0].Err)
}

// round is one round of the group's loop, of a worker that has just started.
func (b *bundle) round() error {
	return b.loop().once(b.Context(), false)
}

func (b *bundle) loop() *loop {
	return &loop{Controller: New(b.cfg), group: b.group, retry: map[string]backoff{}}
}

func (b *bundle) state(machine string) orchestrator.EntryState {
	b.Helper()
	s, err := b.store.EntryState(b.Context(), groupID, machine)
	must(b, err)
	return s
}

func (b *bundle) member(i int) orchestrator.Member {
	b.Helper()
	members, err := b.store.Members(b.Context(), groupID)
	must(b, err)
	return members[i]
}

func (b *bundle) known() orchestrator.Group {
	b.Helper()
	g, _, err := b.store.Entries(b.Context(), groupID)
	must(b, err)
	return g
}

// until waits for a fact, bounded.
func (b *bundle) until(what string, fact func() bool) {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 4000 {
		if fact() {
			return
		}
		<-tick.C
	}
	b.Fatalf("it never happened: %s", what)
}
