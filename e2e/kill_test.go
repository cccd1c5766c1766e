package e2e

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
)

// order hands one in by the operators' socket.
func (w *worker) order(t *testing.T, o order) api.Accepted {
	t.Helper()
	var accepted api.Accepted
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.api.Post(ctx, "/v1/orders", o.json(t), &accepted); err != nil {
		t.Fatalf("order %v: %v", o["id"], err)
	}
	return accepted
}

// journal reads every attempt from the database itself: what a dead worker has left there.
func (s *site) journal() (attempts []orchestrator.Attempt) {
	s.t.Helper()
	s.read(func(ctx context.Context, db orchestrator.Store) error {
		machines, err := db.Machines(ctx)
		for _, m := range machines {
			list, listErr := db.Attempts(ctx, m.ID)
			attempts, err = append(attempts, list...), errors.Join(err, listErr)
		}
		return err
	})
	return attempts
}

// open is how many attempts at a step were begun and not ended.
func open(attempts []orchestrator.Attempt, step string) int {
	n := 0
	for _, a := range attempts {
		if a.Step == step && a.Outcome == orchestrator.OutcomeOpen {
			n++
		}
	}
	return n
}

// processOf is the process id in a worker's name, "host:pid:random#fence".
func processOf(actor string) string {
	if parts := strings.Split(actor, ":"); len(parts) == 3 {
		return parts[1]
	}
	return ""
}

func pid(w *worker) string { return strconv.Itoa(w.PID()) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serve dies by kill -9 five times in the course of twenty installs, each time at a chosen place: between an effect and its answer, while
// appliances are reloaded, while guests boot, install themselves and are looked at. All become machines, each once.
func TestKillServeDuringTwentyInstalls(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteConfig{pools: 2, lease: 2 * time.Second})
	const machines = 20
	at := func(w *worker, step string) bool {
		return slices.ContainsFunc(s.mustRuns(w), func(r api.Run) bool { return r.Step == step && r.Status != "done" })
	}
	sims := []*simxapi.Server{s.pools[0].sim, s.pools[1].sim}
	everywhere := func(f func(*simxapi.Server)) {
		for _, sim := range sims {
			f(sim)
		}
	}
	var releases []func()
	crashes := []struct {
		step    string
		prepare func()
		reached func(w *worker) bool
		resume  func()
	}{
		{"create_machine",
			func() { // the third clone is made, and nobody hears of it
				everywhere(func(sim *simxapi.Server) {
					if err := sim.AddFault(simxapi.Fault{Method: "VM.clone", Nth: 3, When: simxapi.After, Hang: true}); err != nil {
						t.Fatal(err)
					}
				})
			},
			func(*worker) bool { return sims[0].Calls()["VM.clone"] >= 3 && sims[1].Calls()["VM.clone"] >= 3 },
			func() { everywhere((*simxapi.Server).ClearFaults) }},
		{"sync_dhcp", // the agent has stopped dhcpd and not yet started it
			func() { s.dhcp.write("hold", "", 0o600) },
			func(*worker) bool { return exists(s.dhcp.path("held")) },
			func() {
				if err := os.Remove(s.dhcp.path("hold")); err != nil {
					t.Error(err)
				}
			}},
		{"start_machine",
			func() { everywhere(func(sim *simxapi.Server) { releases = append(releases, sim.Hold("VM.start_on")) }) },
			func(*worker) bool { return sims[0].Held("VM.start_on") > 0 && sims[1].Held("VM.start_on") > 0 },
			func() {
				for _, release := range releases {
					release()
				}
			}},
		{"post_install", func() {}, func(w *worker) bool { return at(w, "post_install") }, func() {}},
		{"verify", func() {}, func(w *worker) bool { return at(w, "verify") }, func() {}},
	}
	w := s.serve("worker")
	crashes[0].prepare()
	_, key := keyPair(t)
	for n := range machines {
		w.order(t, install(n+1, key))
	}
	for i, crash := range crashes {
		if i > 0 {
			crash.prepare()
		}
		testnet.Until(t, 60*time.Second, "an install to be at "+crash.step, func() bool { return crash.reached(w) })
		_ = w.Kill()
		left := open(s.journal(), crash.step)
		if left == 0 {
			t.Errorf("serve was killed at %s and no attempt at it is open", crash.step)
		}
		t.Logf("killed while %d installs were at %s", left, crash.step)
		crash.resume()
		w = s.serve("worker")
	}
	s.done(w, machines, 2*time.Minute)
	s.counted(machines)
	interrupted := map[string]int{}
	for _, a := range s.journal() {
		if a.Outcome == orchestrator.OutcomeInterrupted {
			interrupted[a.Step]++
		}
	}
	t.Logf("interrupted attempts: %v", interrupted)
	if interrupted["create_machine"] == 0 {
		t.Error("the journal tells of no interrupted create_machine")
	}
	clones, starts := 0, 0
	for _, sim := range sims {
		calls := sim.Calls()
		clones, starts = clones+calls["VM.clone"], starts+calls["VM.start_on"]
	}
	if clones != machines {
		t.Errorf("%d clones were asked for, want %d: what is there is adopted", clones, machines)
	}
	t.Logf("%d clones, %d starts", clones, starts)
	s.bootedOnce()
}
