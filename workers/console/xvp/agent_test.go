package xvp_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/console/xvp"
)

// appliance is a host with an agent on it, as a controller meets it.
type appliance struct {
	*host
	agent *agent.Agent
	gen   int64
}

func newAppliance(t *testing.T, h *host) *appliance {
	t.Helper()
	registry := agent.Registry{"xvp": func(agent.Settings) (agent.Unit, error) { return h.unit, nil }}
	a, err := agent.New(agent.Config{StateDir: t.TempDir(), Units: map[string]agent.Settings{"console": {Driver: "xvp"}}}, registry, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &appliance{host: h, agent: a}
}

// apply renders the rows and hands them over.
func (a *appliance) apply(want apply.Code, entries ...orchestrator.ConsoleEntry) (apply.Answer, xvp.LineMap) {
	a.t.Helper()
	cfg := xvp.Config{Pools: []xvp.PoolConfig{{
		ID: "p1", Name: "slipway-p1", Manager: "xvp", Password: orchestrator.NewSecret("account of xvp"),
		Hosts: []xvp.HostConfig{{Name: "xen1", Address: netip.MustParseAddr("127.0.0.1")}},
	}}}
	files, lines, err := xvp.Render(os.DirFS("../../../templates"), cfg, entries)
	if err != nil {
		a.t.Fatal(err)
	}
	a.gen++
	answer := a.agent.Apply(a.t.Context(), apply.Request{
		Unit: "console", Fence: 1, Generation: a.gen, Files: files, SHA256: apply.Sum(files), Rows: len(entries),
	})
	if answer.Code != want {
		a.t.Fatalf("generation %d: %+v, want %s", a.gen, answer, want)
	}
	return answer, lines
}

func (a *appliance) entry(n int, port uint16, password string) orchestrator.ConsoleEntry {
	a.t.Helper()
	text, err := xvp.EncryptVNC(orchestrator.NewSecret(password))
	if err != nil {
		a.t.Fatal(err)
	}
	return orchestrator.ConsoleEntry{
		Machine: fmt.Sprintf("machine-%d", n), Pool: "p1", VM: fmt.Sprintf("11111111-2222-3333-4444-%012d", n), Port: port, Password: text,
	}
}

// From rows to consoles that answer, through the agent: what is refused or fails leaves the old consoles as they were.
func TestThroughTheAgent(t *testing.T) {
	onEach(t, func(t *testing.T, h *host) {
		a := newAppliance(t, h)
		foreign, one, two, three := h.free(), h.free(), h.free(), h.free()
		main := h.site(pool("site", fmt.Sprintf(" VM %d \"web server\" ed1a6fce37775acd\n", foreign)))

		first := a.entry(1, one, "right")
		a.apply(apply.Applied, first)
		h.answers(one, "right", true)
		h.answers(foreign, "password", true)
		if info, err := os.Stat(h.cfg.Target); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("our file: %v, %v, want mode 0600", info.Mode(), err)
		}
		pid := h.pid()

		answer, lines := a.apply(apply.Culprit, first, a.entry(2, foreign, "x"))
		if machine, _ := lines.Machine(answer.Line); answer.File != xvp.FileName || machine != "machine-2" {
			t.Errorf("the culprit is %q by %+v, want machine-2", machine, answer)
		}
		h.answers(one, "right", true)
		if h.pid() != pid {
			t.Error("a refused candidate touched xvp")
		}

		taken, err := net.Listen("tcp4", fmt.Sprintf(":%d", two)) // no parser sees this; xvp ends on it
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		if answer, _ := a.apply(apply.Restored, first, a.entry(2, two, "x")); !strings.Contains(answer.Message, "has ended") {
			t.Errorf("message: %q", answer.Message)
		}
		h.answers(one, "right", true)

		a.apply(apply.Applied, first, a.entry(2, three, "other"))
		h.answers(three, "other", true)
		a.apply(apply.Applied)
		h.closed(one)
		h.answers(foreign, "password", true)
		if got := h.read(h.cfg.Main); got != main {
			t.Errorf("the site's file was changed:\n%s", got)
		}
	})
}
