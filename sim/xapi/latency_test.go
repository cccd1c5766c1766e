package xapi

import (
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

// Parallel clones of one template queue behind a random back-off of 1 to 20 s, as on a real pool: six clones of a fraction of a second each
// took 26 s there. One after the other they take no longer than they need.
func TestParallelClonesBackOff(t *testing.T) {
	took := func(parallel bool) (elapsed time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			s, err := New(Config{Password: orchestrator.NewSecret("secret"), Latency: Real})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			do := func(method string, params ...any) any {
				t.Helper()
				result, err := s.dispatch(t.Context(), &request{method: method, params: params})
				if err != nil {
					t.Fatalf("%s: %v", method, err)
				}
				return result
			}
			session := do("session.login_with_password", "root", "secret")
			template := do("VM.get_by_name_label", session, "Debian 12").([]any)[0]
			wait := func(ref any) {
				t.Helper()
				token := ""
				for range 100 {
					if do("task.get_status", session, ref) != "pending" {
						break
					}
					a := do("event.from", session, []any{"task/" + ref.(string)}, token, 60.0).(ordered)
					token = a[2].val.(string)
				}
				if status := do("task.get_status", session, ref); status != "success" {
					t.Fatalf("clone: %v", status)
				}
			}
			start := time.Now()
			var refs []any
			for range 6 {
				ref := do("Async.VM.clone", session, template, "x")
				if !parallel {
					wait(ref)
				}
				refs = append(refs, ref)
			}
			for _, ref := range refs {
				wait(ref)
			}
			elapsed = time.Since(start)
		})
		return elapsed
	}
	alone, together := took(false), took(true)
	if alone > 3*time.Second || together < 2*time.Second || together > 5*time.Minute {
		t.Fatalf("one after the other %v, together %v", alone, together)
	}
}
