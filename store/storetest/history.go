package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// history: what boards and statistics read.
func history(t *testing.T, h Harness) {
	// walked is a run that came to its end in these steps.
	type stepTook struct {
		step    string
		took    time.Duration
		outcome string
	}
	walk := func(b *bundle, c orchestrator.Claim, release bool, steps ...stepTook) {
		b.Helper()
		at := b.now
		for _, s := range steps {
			line := orchestrator.Attempt{Run: c.Run.ID, Machine: c.Machine.ID, Step: s.step, From: "a", To: "b", Number: 1, Started: at, Ended: at.Add(s.took), Outcome: s.outcome, Actor: "w"}
			at = line.Ended
			b.commit(orchestrator.Commit{Run: c.Run, Ended: &line})
		}
		c.Run.Status, c.Run.State = orchestrator.StatusDone, "production_ready"
		last := orchestrator.Commit{Run: c.Run, Release: true}
		if release {
			gone := c.Machine
			gone.Presence = orchestrator.Absent
			last.Machine, last.Changes = &gone, []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: time.Hour}}
		}
		b.commit(last)
	}

	t.Run("Durations", func(t *testing.T) {
		b := setup(t, h)
		plain, gone, touched := b.place(b.taken("a")), b.place(b.taken("a")), b.place(b.taken("a"))
		b.place(b.taken("a")) // is not over
		walk(b, plain, false, stepTook{"place", time.Second, orchestrator.OutcomeFailed}, stepTook{"place", 2 * time.Second, orchestrator.OutcomeDone},
			stepTook{"sync_dhcp", 0, orchestrator.OutcomeSkipped}, stepTook{"verify", 1500 * time.Millisecond, orchestrator.OutcomeDone})
		walk(b, gone, true, stepTook{"place", time.Second, orchestrator.OutcomeDone})
		walk(b, touched, false, stepTook{"place", time.Second, orchestrator.OutcomeFailed}, stepTook{"place", 0, orchestrator.VerbRetry}, stepTook{"place", time.Hour, orchestrator.OutcomeDone})

		got, err := b.store.Durations(t.Context(), orchestrator.DurationFilter{Process: "install", Image: "debian-12"})
		must(t, err)
		byRun := map[string]orchestrator.RunDurations{}
		for _, r := range got {
			byRun[r.Run] = r
		}
		if len(got) != 3 || got[0].Run != touched.Run.ID || got[2].Run != plain.Run.ID {
			t.Errorf("runs, the newest first: %+v", got)
		}
		r := byRun[plain.Run.ID]
		steps := map[string]orchestrator.StepDuration{}
		for _, s := range r.Steps {
			steps[s.Step] = s
		}
		want := map[string]orchestrator.StepDuration{
			"place": {Step: "place", Took: 3 * time.Second}, "sync_dhcp": {Step: "sync_dhcp", Skipped: true}, "verify": {Step: "verify", Took: 1500 * time.Millisecond},
		}
		if diff := cmp.Diff(want, steps); diff != "" {
			t.Error(diff)
		}
		if r.Repaired || r.Pool != plain.Machine.Placement.Pool || r.Image != "debian-12" || r.Total <= 0 || r.Total > time.Minute {
			t.Errorf("run %+v", r)
		}
		if r := byRun[gone.Run.ID]; r.Pool != gone.Machine.Placement.Pool || r.Repaired {
			t.Errorf("a run whose machine gave its place back: %+v", r)
		}
		if !byRun[touched.Run.ID].Repaired {
			t.Error("an operator's hand is not seen")
		}
		for name, tc := range map[string]struct {
			f orchestrator.DurationFilter
			n int
		}{
			"limit": {orchestrator.DurationFilter{Limit: 2}, 2}, "another process": {orchestrator.DurationFilter{Process: "uninstall"}, 0}, "another image": {orchestrator.DurationFilter{Image: "x"}, 0},
			"pool": {orchestrator.DurationFilter{Pool: gone.Machine.Placement.Pool}, 3}, "another pool": {orchestrator.DurationFilter{Pool: "x"}, 0},
			"since": {orchestrator.DurationFilter{Since: time.Now().Add(time.Hour)}, 0}, "all": {orchestrator.DurationFilter{}, 3},
		} {
			if name == "pool" {
				tc.n = 0
				for _, r := range got {
					if r.Pool == gone.Machine.Placement.Pool {
						tc.n++
					}
				}
			}
			if got, err := b.store.Durations(t.Context(), tc.f); err != nil || len(got) != tc.n {
				t.Errorf("%s: %d runs, want %d, %v", name, len(got), tc.n, err)
			}
		}
	})

	t.Run("Watched", func(t *testing.T) {
		b := setup(t, h)
		first, over, unplaced := b.place(b.taken("a")), b.place(b.taken("a")), b.taken("a")
		walk(b, over, false, stepTook{"place", time.Second, orchestrator.OutcomeDone}, stepTook{"await_guest", time.Second, orchestrator.OutcomeDone})
		next := b.uninstall(over.Machine.ID)
		b.accept(next)
		ids := func(f orchestrator.WatchFilter) []string {
			t.Helper()
			got, err := b.store.Watched(t.Context(), f)
			must(t, err)
			var out []string
			for _, r := range got {
				out = append(out, r.ID)
			}
			return out
		}
		for name, tc := range map[string]struct {
			f    orchestrator.WatchFilter
			want []string
		}{
			"nothing":            {orchestrator.WatchFilter{}, nil},
			"active":             {orchestrator.WatchFilter{Active: true}, []string{first.Run.ID, unplaced.Run.ID, next.Run.ID}},
			"limit":              {orchestrator.WatchFilter{Active: true, Limit: 1}, []string{next.Run.ID}},
			"wanted":             {orchestrator.WatchFilter{Active: true, Pool: "pool-b"}, nil}, // below
			"another pool":       {orchestrator.WatchFilter{Active: true, Pool: "x"}, nil},
			"active and known":   {orchestrator.WatchFilter{Active: true, Runs: []string{over.Run.ID, first.Run.ID, "none"}}, []string{first.Run.ID, over.Run.ID, unplaced.Run.ID, next.Run.ID}},
			"machines":           {orchestrator.WatchFilter{Machines: []string{first.Machine.ID, over.Machine.ID}}, []string{first.Run.ID, next.Run.ID}},
			"a run that is over": {orchestrator.WatchFilter{Runs: []string{over.Run.ID}}, []string{over.Run.ID}},
		} {
			if name == "wanted" {
				for _, c := range []orchestrator.Claim{first, over} {
					if c.Machine.Placement.Pool == "pool-b" {
						tc.want = append(tc.want, map[string]string{first.Run.ID: first.Run.ID, over.Run.ID: next.Run.ID}[c.Run.ID])
					}
				}
				tc.want = append(tc.want, unplaced.Run.ID)
				if got := ids(tc.f); len(got) != len(tc.want) {
					t.Errorf("%s: %v, want %v", name, got, tc.want)
				}
				continue
			}
			if diff := cmp.Diff(tc.want, ids(tc.f)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", name, diff)
			}
		}
		got, err := b.store.Watched(t.Context(), orchestrator.WatchFilter{Runs: []string{over.Run.ID}, Steps: []string{"await_guest"}})
		must(t, err)
		if r := got[0]; len(r.Lines) != 1 || r.Lines[0].Step != "await_guest" || r.Image != "debian-12" || r.Name != over.Machine.Name || r.Pool != over.Machine.Placement.Pool {
			t.Errorf("%+v", r)
		}
	})
}

// BenchHistory fills a database with ended runs of eleven steps each, and asks what a board, the statistics and a worker with room for 32
// runs ask.
func BenchHistory(b *testing.B, h Harness, runs int) {
	db := h.New(b)
	store := db.Open(b)
	must(b, store.SyncGroups(b.Context(), nil, nil))
	numbers := func(n int) string {
		return fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, n)
	}
	for _, sql := range []string{
		`INSERT INTO machines (id, tenant, name, hostname, image, vcpus, memory_mib, disk_gib, firewall, ssh_keys, presence, state, seq, created_at, updated_at, pool)
			` + numbers(runs) + `SELECT 'm' || i, 'acme', 'web-' || i, 'web', 'debian-12', 1, 1024, 10, '[]', '[]', 'present', 'production_ready', 2, i, i, 'pool-' || (i % 4) FROM n`,
		`INSERT INTO runs (id, machine, process, state, status, step, row_hash, order_source, order_id, created_at, updated_at)
			` + numbers(runs) + `SELECT 'r' || i, 'm' || i, 'install', 'production_ready', CASE WHEN i > ` + fmt.Sprint(runs-1000) + ` THEN 'waiting' ELSE 'done' END, '', 'h', 'panel', 'o' || i, i * 1000, i * 1000 + 60000000 FROM n`,
		`INSERT INTO attempts (run, machine, step, from_state, to_state, number, undo, started, ended, outcome, kind, message, detail, actor, handles)
			` + numbers(runs) + `SELECT 'r' || i, 'm' || i, 'step' || s, 'a', 'b', 1, 0, i * 1000 + s * 1000000, i * 1000 + s * 1000000 + 900000, 'done', '', 'a message of usual length for a journal', '', 'worker#1', '{}'
			FROM n, (` + numbers(11) + `SELECT i AS s FROM n) AS steps`,
		`ANALYZE`, // as a database of some age has done by itself
	} {
		must(b, db.Exec(b.Context(), sql))
	}
	b.Run("Stats10000", func(b *testing.B) {
		for b.Loop() {
			got, err := store.Durations(b.Context(), orchestrator.DurationFilter{Limit: 10_000})
			must(b, err)
			if len(got) != 10_000 || len(got[0].Steps) != 11 {
				b.Fatalf("%d runs", len(got))
			}
		}
	})
	b.Run("Past2000", func(b *testing.B) {
		for b.Loop() {
			_, err := store.Durations(b.Context(), orchestrator.DurationFilter{Limit: 2000})
			must(b, err)
		}
	})
	b.Run("Board1000", func(b *testing.B) {
		for b.Loop() {
			got, err := store.Watched(b.Context(), orchestrator.WatchFilter{Active: true, Steps: []string{"step7", "step8", "step9"}})
			must(b, err)
			if len(got) != 1000 || len(got[0].Lines) != 3 {
				b.Fatalf("%d runs", len(got))
			}
		}
	})
	for _, due := range []int{1000, 10_000} {
		must(b, db.Exec(b.Context(), fmt.Sprintf(`UPDATE runs SET status = 'waiting' WHERE created_at > %d`, (runs-due)*1000)))
		for _, tenants := range []int{1, 100} {
			must(b, db.Exec(b.Context(), fmt.Sprintf(`UPDATE machines SET tenant = 'tenant-' || (created_at %% %d)`, tenants)))
			must(b, db.Exec(b.Context(), `ANALYZE`))
			b.Run(fmt.Sprintf("Claim32of%dOf%dTenants", due, tenants), func(b *testing.B) {
				for b.Loop() {
					got, err := store.Claim(b.Context(), orchestrator.Ask{Holder: "worker", Limit: 32, Lease: time.Minute})
					must(b, err)
					if len(got) != 32 {
						b.Fatalf("%d runs", len(got))
					}
					fences := map[string]int64{}
					for _, c := range got {
						fences[c.Run.ID] = c.Run.Fence
					}
					must(b, store.ReleaseRuns(b.Context(), "worker", fences))
				}
			})
		}
	}
}
