package orchestratortest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
)

func site(t *testing.T) *orchestratortest.Site {
	t.Helper()
	return orchestratortest.NewSite(t, 1, stores(t)(t), build)
}

func ended(t *testing.T, s *orchestratortest.Site, run string, want orchestrator.Status) orchestrator.Run {
	t.Helper()
	r := s.Run(run)
	if r.Status != want {
		t.Fatalf("the run is %s in %s, not %s: %s\n%s", r.Status, r.State, want, r.Reason, strings.Join(s.Journal(), "\n"))
	}
	if len(s.World.Violations) > 0 {
		t.Errorf("what must never be: %q", s.World.Violations)
	}
	return r
}

// outcomes are a step's lines in the journal.
func outcomes(t *testing.T, s *orchestratortest.Site, step string) []string {
	t.Helper()
	attempts, err := s.Store.Attempts(t.Context(), s.Machine().ID)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range attempts {
		if a.Step == step {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s", a.Outcome, a.Kind)))
		}
	}
	return out
}

func TestCommitsOfAnInstall(t *testing.T) {
	s := site(t)
	s.World.Instant = true
	run := s.Begin(install.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	steps, handles, waits := 0, 0, 0
	for _, c := range s.Commits {
		switch {
		case c.Ended != nil && c.Ended.Outcome == orchestrator.OutcomeDone:
			steps++
		case c.Run.Status == orchestrator.StatusWaiting:
			waits++
		default:
			handles++
		}
	}
	// Handles: the clone's task, the start's, the job's id, the guest's identity, the name. Waits: four for an appliance, one for the job.
	if steps != 13 || handles != 5 || waits != 5 {
		t.Errorf("%d commits of steps, %d of handles, %d of waits", steps, handles, waits)
	}
}

func TestEventsOfAnInstall(t *testing.T) {
	s := site(t)
	run := s.Begin(install.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	var types, steps []string
	events := s.Events()
	for n, e := range events {
		if e.Seq != int64(n+1) {
			t.Errorf("event %d has number %d", n+1, e.Seq)
		}
		data := orchestratortest.DataOf(t, e)
		if data.Run != run || data.Machine != s.Machine().ID || data.Tenant != "acme" || data.Name != "web-1" || data.Process != install.Name || data.Source != "panel" || data.OrderID != "order-1" || e.Order.ID != "order-1" {
			t.Errorf("event %d does not say whose it is: %s", n+1, e.Data)
		}
		switch e.Type {
		case orchestrator.EventWaiting:
			if data.Message == "" || data.Status != orchestrator.StatusWaiting {
				t.Errorf("event %d does not say what for: %s", n+1, e.Data)
			}
			continue
		case orchestrator.EventStepDone:
			steps = append(steps, data.Step)
			if data.Attempt != 1 || data.Outcome != orchestrator.OutcomeDone {
				t.Errorf("%s", e.Data)
			}
		}
		if types = append(types, e.Type); len(types) > 1 && types[len(types)-2] == e.Type {
			types = types[:len(types)-1]
		}
	}
	if diff := cmp.Diff([]string{orchestrator.EventAccepted, orchestrator.EventStepDone, orchestrator.EventDone}, types); diff != "" {
		t.Error(diff)
	}
	var want []string
	for _, row := range s.Process(install.Name).Rows {
		want = append(want, row.Step)
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	last := orchestratortest.DataOf(t, events[len(events)-1])
	if last.Private != "10.0.0.10" || last.Public != "198.51.100.10" || last.ConsolePort != 20000 || last.HostKey != "ssh-ed25519 OWN" ||
		last.AdministratorAge != "-----BEGIN AGE ENCRYPTED FILE-----" || last.State != "production_ready" || last.Status != orchestrator.StatusDone {
		t.Errorf("the panel is told %+v", last)
	}
}

// An error that carries a secret must not bring it into the journal or to the panel.
func TestSecretsAreSeenNowhere(t *testing.T) {
	s := site(t)
	leaks := 0
	s.Wrap = func(row orchestrator.Row, undo bool, do orchestratortest.Act) orchestratortest.Act {
		if row.Step != "post_install" || undo {
			return do
		}
		return func(ctx context.Context, step *orchestrator.Step) (orchestrator.Outcome, error) {
			if leaks < 2 {
				leaks++
				key, err := orchestratortest.Vault{}.Open(step.Machine.ID, orchestrator.SealedHostKey, step.Machine.HostKeySecret)
				if err != nil || key.Reveal() != "PRIVATE-HOST-KEY" {
					t.Fatalf("the step cannot open its key: %v", err)
				}
				job := orchestrator.Job{ID: "1", HostKeySecret: key}
				return orchestrator.Outcome{}, fmt.Errorf("job %v %+v %#v %s %q", job, job, job, key, key)
			}
			return do(ctx, step)
		}
	}
	run := s.Begin(install.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	everything := strings.Join(s.Journal(), "\n")
	for _, e := range s.Events() {
		everything += string(e.Data)
	}
	if !strings.Contains(everything, "[redacted]") {
		t.Error("the error that carries the secret was not recorded")
	}
	for _, secret := range []string{"PRIVATE-HOST-KEY", "CONSOLE-PASSWORD", "ADMINISTRATOR-PASSWORD"} {
		if strings.Contains(everything, secret) {
			t.Errorf("%s is in the journal or in an event", secret)
		}
	}
	for _, group := range orchestratortest.Groups() {
		_, entries, err := s.Store.Entries(t.Context(), group.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(string(e.Body), "CONSOLE-PASSWORD") {
				t.Errorf("the password is in the entry of %s", group.ID)
			}
		}
	}
}

func TestRoutedPoolServedByOthers(t *testing.T) {
	s := site(t)
	s.In(orchestratortest.PoolRouted)
	run := s.Begin(install.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if diff := cmp.Diff([]string{"skipped"}, outcomes(t, s, "sync_dhcp")); diff != "" {
		t.Error(diff)
	}
	m := s.Machine()
	if m.Placement.Public.IsValid() || m.Placement.DHCP != "" || m.Address != m.Placement.Private {
		t.Errorf("%+v, reached at %s", m.Placement, m.Address)
	}
	run = s.Begin(uninstall.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if left := s.World.Describe(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestInstallWaitsForRoomAndIsWoken(t *testing.T) {
	s := site(t)
	first := s.Begin(install.Name)
	s.Settle()
	ended(t, s, first, orchestrator.StatusDone)
	machine := s.Machine().ID
	s.Estate.Pools[0].Public.Ranges[0].Last = s.Estate.Pools[0].Public.Ranges[0].First // one address, and it is taken
	second := s.Begin(install.Name)
	s.Round(second)
	waiting := ended(t, s, second, orchestrator.StatusWaiting)
	if waiting.Kind != orchestrator.Exhausted || waiting.WakeKey != orchestrator.WakeCapacity || !strings.Contains(waiting.Reason, "no public address is free") {
		t.Errorf("%+v", waiting)
	}
	if s.World.Effects["clone"] != 1 {
		t.Error("something was made before it was promised a place")
	}
	s.Estate.Quarantine = time.Microsecond
	s.Uninstall(machine)
	for range 200 {
		s.Pass()
		for _, r := range s.Active() {
			s.Round(r)
		}
		if _, err := s.Store.EndQuarantine(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.Active()) == 0 {
			break
		}
	}
	ended(t, s, second, orchestrator.StatusDone)
	if got := outcomes(t, s, "place"); !slices.Equal(got, []string{"done"}) {
		t.Errorf("waiting for room used up attempts: %v", got)
	}
}

func TestCulpritParksItsOwnRunAlone(t *testing.T) {
	s := site(t)
	s.World.Culprit = func(e orchestrator.Entry) string {
		if e.Group == "dhcp-a" && strings.Contains(string(e.Body), `"hostname":"web-1"`) {
			return "line 7: semicolon expected."
		}
		return ""
	}
	bad, good := s.Begin(install.Name), s.Begin(install.Name)
	s.Settle()
	parked := ended(t, s, bad, orchestrator.StatusParked)
	if parked.State != "ips_selected" || !strings.Contains(parked.Reason, "line 7: semicolon expected.") {
		t.Errorf("%s: %s", parked.State, parked.Reason)
	}
	ended(t, s, good, orchestrator.StatusDone)
	s.World.Culprit = nil // put right outside
	s.Retry(bad)
	s.Settle()
	ended(t, s, bad, orchestrator.StatusDone)
}

func TestJobThatFailsIsRunAgainUnderAnotherID(t *testing.T) {
	s := site(t)
	s.World.FailJobs = 2
	run := s.Begin(install.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if diff := cmp.Diff([]string{"failed transient", "failed transient", "done"}, outcomes(t, s, "post_install")); diff != "" || s.World.Effects["job"] != 3 {
		t.Errorf("%d jobs\n%s", s.World.Effects["job"], diff)
	}

	s = site(t)
	s.World.FailJobs = 3
	run = s.Begin(install.Name)
	s.Settle()
	if parked := ended(t, s, run, orchestrator.StatusParked); !strings.Contains(parked.Reason, "the last line of the job") {
		t.Errorf("the operator is not told what the job said: %s", parked.Reason)
	}
	s.Retry(run)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
}

func TestHopelessJobParksAtOnce(t *testing.T) {
	s := site(t)
	s.World.FailJobs, s.World.JobExit = 1, 80
	run := s.Begin(install.Name)
	s.Settle()
	if parked := ended(t, s, run, orchestrator.StatusParked); parked.Kind != orchestrator.Permanent || s.World.Effects["job"] != 1 {
		t.Errorf("%s after %d jobs", parked.Kind, s.World.Effects["job"])
	}
	s.Retry(run) // the license is there now
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
}

func TestTasksThatFailOrAreForgotten(t *testing.T) {
	for _, step := range []string{"create_machine", "start_machine"} {
		for name, happens := range map[string]func(*orchestratortest.World){
			"fail": func(w *orchestratortest.World) {
				w.FailTasks(orchestrator.Errorf("xapi", orchestrator.Transient, "SR_BACKEND_FAILURE"))
			},
			"forgotten": func(w *orchestratortest.World) { w.LoseTasks() },
		} {
			t.Run(step+"_"+name, func(t *testing.T) {
				s := site(t)
				run := s.Begin(install.Name)
				for range 100 {
					s.Round(run)
					if s.World.Pending() > 0 && s.Run(run).Step == step {
						break
					}
					s.Pass()
				}
				if s.World.Pending() == 0 {
					t.Fatal("no task was met under way")
				}
				happens(s.World)
				s.Settle()
				ended(t, s, run, orchestrator.StatusDone)
				if e := s.World.Effects; e["clone"] != 1 || e["start"] != 1 || len(s.World.Violations) != 0 {
					t.Errorf("%v %v", e, s.World.Violations)
				}
			})
		}
	}
}

func TestCleanShutdownThatFailsIsFollowedByAHardOne(t *testing.T) {
	s := site(t)
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	run := s.Begin(uninstall.Name)
	for range 100 {
		s.Round(run)
		if s.World.Pending() > 0 {
			break
		}
		s.Pass()
	}
	s.World.FailTasks(errors.New("VM_SHUTDOWN_TIMEOUT"))
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if got := outcomes(t, s, "stop_machine"); !slices.Equal(got, []string{"done"}) || s.World.Effects["stop"] != 1 {
		t.Errorf("%v, %d stops", got, s.World.Effects["stop"])
	}
}

func TestFullHostIsAnEdgeNotAFailure(t *testing.T) {
	s := site(t)
	s.Committed = func(c orchestrator.Commit) {
		if c.Run.State == "placed" {
			s.World.FillHost("pool-a", "pool-a-host-1")
		}
	}
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	if got := outcomes(t, s, "start_machine"); !slices.Equal(got, []string{"done"}) {
		t.Errorf("%v", got)
	}
	if !strings.Contains(strings.Join(s.World.Describe(), "\n"), "running on pool-a-host-2") {
		t.Errorf("%v", s.World.Describe())
	}
	ledger, err := s.Store.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hosts := ledger.Pools["pool-a"].Hosts
	if m := s.Machine(); hosts[0].ReservedMiB != 0 || hosts[1].ReservedMiB != m.Plan.MemoryMiB || m.Placement.Host != hosts[1].UUID {
		t.Errorf("the promise stays behind: %d and %d MiB, placed on %s", hosts[0].ReservedMiB, hosts[1].ReservedMiB, m.Placement.Host)
	}
}

// The other host's memory may be promised by the time the machine comes up there: the install goes on, and nothing is promised twice.
func TestFullHostWhoseNeighbourIsPromised(t *testing.T) {
	s := site(t)
	run := s.Begin(install.Name)
	s.Committed = func(c orchestrator.Commit) {
		if c.Run.ID != run || c.Run.State != "placed" {
			return
		}
		s.Committed = nil
		s.World.FillHost("pool-a", "pool-a-host-1")
		full := orchestratortest.Inventories()[0]
		full.Hosts[1].MemoryMiB = 512
		if err := s.Store.SyncPool(t.Context(), full); err != nil {
			t.Fatal(err)
		}
	}
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if m := s.Machine(); m.Placement.Host != "pool-a-host-1" {
		t.Errorf("placed on %s", m.Placement.Host)
	}
}

func installed(t *testing.T, s *orchestratortest.Site) (run string) {
	t.Helper()
	run = s.Begin(install.Name)
	s.Settle()
	return run
}

func TestUninstallOfAMachineThatWasNeverPlaced(t *testing.T) {
	s := site(t)
	s.Estate.Pools[0].Images = nil
	first := s.Begin(install.Name)
	s.Round(first)
	ended(t, s, first, orchestrator.StatusWaiting)
	second := s.Begin(uninstall.Name)
	s.Settle()
	ended(t, s, first, orchestrator.StatusCanceled)
	ended(t, s, second, orchestrator.StatusDone)
	if m := s.Machine(); m.Presence != orchestrator.Absent || m.State != "removed" {
		t.Errorf("%s %s", m.Presence, m.State)
	}
}

// Two orders at once must not share anything, and each run has its own way through the world.
func TestManyInstallsAtOnce(t *testing.T) {
	s := site(t)
	var runs []string
	for range 8 {
		runs = append(runs, s.Begin(install.Name))
	}
	s.Settle()
	for _, run := range runs {
		ended(t, s, run, orchestrator.StatusDone)
	}
	if e := s.World.Effects; e["clone"] != 8 || e["start"] != 8 || e["job"] != 8 || len(s.World.Violations) != 0 {
		t.Errorf("%v %v", e, s.World.Violations)
	}
	if n := s.World.Effects["apply dhcp-a"]; n > 8 {
		t.Errorf("dhcp-a was applied %d times", n)
	}
}

// The disks of a clone that was never shaped are known to nobody once its VM is gone, but to the handle of the step that destroys it.
func TestDisksOfAnUnshapedCloneAreNotLeft(t *testing.T) {
	s := site(t)
	run := s.Begin(install.Name)
	s.Committed = func(c orchestrator.Commit) {
		if c.Run.Handles[uninstall.HandleClone] != "" {
			s.Committed = nil
			s.Cancel(run)
		}
	}
	died := false
	s.World.Interrupt = func(p orchestratortest.Point) error {
		if p.Call == "DestroyMachine" && p.Moment == orchestratortest.During && !died {
			died = true
			panic(orchestratortest.Crash{At: p})
		}
		return nil
	}
	s.Settle()
	ended(t, s, run, orchestrator.StatusCanceled)
	if left := s.World.Describe(); len(left) != 0 || !died {
		t.Errorf("died %t, left %v", died, left)
	}
}

// The answer that names the clone's task is lost, and nobody wants the machine any more while the clone is under way, seen by nobody.
func TestCloneWhoseAnswerWasLostIsNotLeft(t *testing.T) {
	for name, giveUp := range map[string]func(*orchestratortest.Site, string){
		"canceled":    func(s *orchestratortest.Site, run string) { s.Cancel(run) },
		"uninstalled": func(s *orchestratortest.Site, _ string) { s.Begin(uninstall.Name) },
	} {
		t.Run(name, func(t *testing.T) {
			s := site(t)
			run := s.Begin(install.Name)
			s.World.Interrupt = func(p orchestratortest.Point) error {
				if p.Call != "StartClone" || p.Moment != orchestratortest.After {
					return nil
				}
				s.World.Interrupt = nil
				return orchestrator.Errorf("world", orchestrator.Unknown, "the connection was lost")
			}
			s.Round(run)
			giveUp(s, run)
			s.Settle()
			ended(t, s, run, orchestrator.StatusCanceled)
			for range 10 {
				s.Pass()
			}
			if left := s.World.Describe(); len(left) != 0 || s.World.Effects["clone"] != 1 {
				t.Errorf("%d clones, left: %v\n%s", s.World.Effects["clone"], left, strings.Join(s.Journal(), "\n"))
			}
		})
	}
}

// A firewall that lets everything through, and a guest in which nothing listens, are each told from what they should be.
func TestVerifyTellsAFirewallFromAGuest(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*orchestratortest.World)
		want    string
	}{
		"leaky firewall": {func(w *orchestratortest.World) { w.Leaky = true }, "port 5986 of 198.51.100.10 is not allowed and refused"},
		"deaf guest":     {func(w *orchestratortest.World) { w.Deaf = true }, "port 22 of 198.51.100.10 is allowed and refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s := site(t)
			c.prepare(s.World)
			run := s.Begin(install.Name)
			for range 5 {
				s.Settle()
				s.Now = s.Now.Add(time.Hour)
			}
			parked := ended(t, s, run, orchestrator.StatusParked)
			if parked.Step != "verify" || !strings.Contains(parked.Reason, c.want) {
				t.Errorf("at %s: %s", parked.Step, parked.Reason)
			}
		})
	}
}
