package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"slipway/orchestrator"
)

// trail is the operators' audit trail: one chain, whoever writes it, in which every change shows.
func trail(t *testing.T, h Harness) {
	verify := func(b *bundle, expect ...orchestrator.ActHead) (orchestrator.ActHead, error) {
		return orchestrator.VerifyTrail(b.Context(), b.store.Acts, expect...)
	}

	t.Run("OneChain", func(t *testing.T) {
		b := setup(t, h)
		if head, err := verify(b); err != nil || head != (orchestrator.ActHead{}) {
			t.Fatalf("an empty trail: %v, %v", head, err)
		}
		const writers, each = 6, 20
		run := b.taken("a")
		run.Run.Status = orchestrator.StatusParked
		b.commit(orchestrator.Commit{Run: run.Run})
		var all sync.WaitGroup
		for w := range writers {
			s := b.db.Open(t) // as another process
			all.Go(func() {
				for n := range each {
					var err error
					if w == 0 && n == each/2 { // an act of another kind, in the transaction of what it does
						_, err = s.Intervene(t.Context(), orchestrator.Intervention{Run: run.Run.ID, Verb: orchestrator.VerbRetry, Actor: "0:root", Reason: "mended", Now: b.now})
					} else {
						err = s.RecordAct(t.Context(), fmt.Sprint(w, ":writer"), "try", fmt.Sprint(n), "ü, \"quoted\"\nand long "+strings.Repeat("x", 500))
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		head, err := verify(b)
		if err != nil || head.ID != writers*each {
			t.Fatalf("%d lines of %d: %v", head.ID, writers*each, err)
		}
		acts, same, err := b.store.Acts(t.Context(), 3, 2)
		must(t, err)
		if len(acts) != 2 || acts[0].ID != 4 || acts[1].ID != 5 || same != head {
			t.Errorf("a page: %+v, head %v, want %v", acts, same, head)
		}
		retries := 0
		acts, _, err = b.store.Acts(t.Context(), 0, 1000)
		must(t, err)
		for _, a := range acts {
			if a.Verb == orchestrator.VerbRetry && a.Subject == "run "+run.Run.ID && a.Reason == "mended" {
				retries++
			}
		}
		if retries != 1 {
			t.Errorf("what was done to a run stands in the trail %d times", retries)
		}
	})

	t.Run("OnlyAddedTo", func(t *testing.T) {
		b := setup(t, h)
		must(t, b.store.RecordAct(t.Context(), "0:root", "try", "it", "x"))
		for _, sql := range []string{
			`DELETE FROM acts`, `UPDATE acts SET reason = 'y'`, `INSERT INTO acts (id, at, actor, verb, subject, reason) VALUES (2, 1, 'a', 'b', 'c', 'd')`,
		} {
			if err := b.db.Exec(t.Context(), sql); err == nil {
				t.Errorf("taken: %s", sql)
			}
		}
	})

	// What somebody does who may do everything in the database; what else is found is orchestrator.TestChain's.
	t.Run("CutOff", func(t *testing.T) {
		b := setup(t, h)
		for n := range 7 {
			must(t, b.store.RecordAct(t.Context(), "0:root", "try", fmt.Sprint(n), "x"))
		}
		kept, err := verify(b)
		must(t, err)
		guards := 0
		for _, sql := range []string{`DROP TRIGGER act_kept_delete`, `DROP TRIGGER act_kept ON acts`} { // SQLite, PostgreSQL
			if b.db.Exec(t.Context(), sql) == nil {
				guards++
			}
		}
		if guards != 1 {
			t.Fatal("what guards the table was not found")
		}
		must(t, b.db.Exec(t.Context(), `DELETE FROM acts WHERE id >= 6`))
		if _, err := verify(b); err == nil || !strings.Contains(err.Error(), "line 6 is missing") {
			t.Errorf("the last lines were removed: %v", err)
		}
		must(t, b.db.Exec(t.Context(), `UPDATE act_head SET id = 5, hash = (SELECT hash FROM acts WHERE id = 5)`))
		for n := range 3 { // as if nothing had been
			must(t, b.store.RecordAct(t.Context(), "0:root", "try", fmt.Sprint("other ", n), "x"))
		}
		if _, err := verify(b); err != nil {
			t.Errorf("found without the head that was kept: %v", err)
		}
		if _, err := verify(b, kept); err == nil || !strings.Contains(err.Error(), "line 7 is not the one that was kept") {
			t.Errorf("against the head that was kept: %v", err)
		}
	})
}
