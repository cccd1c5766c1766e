package xapi

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func TestObserveTask(t *testing.T) {
	tests := []struct {
		name   string
		reply  reply
		status TaskStatus
		result Ref
		kind   orchestrator.Kind // of the state's error
		broken orchestrator.Kind // of ObserveTask's own error
	}{
		{"pending", ok(taskRecord{Status: "pending"}), TaskPending, "", "", ""},
		{"being canceled", ok(taskRecord{Status: "cancelling"}), TaskPending, "", "", ""},
		{"canceled", ok(taskRecord{Status: "cancelled"}), TaskCanceled, "", orchestrator.Transient, ""},
		{"with an object", ok(taskRecord{Status: "success", Result: "<value>OpaqueRef:vm</value>"}), TaskSuccess, "OpaqueRef:vm", "", ""},
		{"with nothing", ok(taskRecord{Status: "success", Result: "<value></value>"}), TaskSuccess, "", "", ""},
		{"with no value at all", ok(taskRecord{Status: "success"}), TaskSuccess, "", "", ""},
		{"full storage", ok(taskRecord{Status: "failure", ErrorInfo: []string{"SR_BACKEND_FAILURE_44", "", "full", ""}}), TaskFailure, "", orchestrator.Exhausted, ""},
		{"failure without reason", ok(taskRecord{Status: "failure"}), TaskFailure, "", orchestrator.Transient, ""},
		{"gone", fails("HANDLE_INVALID", "task", "OpaqueRef:t"), TaskGone, "", orchestrator.Unknown, ""},
		{"a result of no known form", ok(taskRecord{Status: "success", Result: "<value><array/></value"}), "", "", "", orchestrator.Unknown},
		{"a status of no known form", ok(taskRecord{Status: "ready?"}), "", "", "", orchestrator.Transient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMember(t, always(tt.reply))
			state, err := newClient(t, testConfig(m.URL)).ObserveTask(t.Context(), "OpaqueRef:t")
			if orchestrator.KindOf(err) != tt.broken {
				t.Fatalf("ObserveTask: %v", err)
			}
			if state.Status != tt.status || state.Result != tt.result || orchestrator.KindOf(state.Err) != tt.kind {
				t.Errorf("state %+v", state)
			}
		})
	}
}

func TestStartTaskAndDestroy(t *testing.T) {
	status := "pending"
	m := newMember(t, func(method string, args []json.RawMessage) reply {
		switch method {
		case "Async.VM.clone":
			return ok("OpaqueRef:task")
		case "task.get_record":
			return ok(taskRecord{Status: status})
		}
		return ok("")
	})
	c := newClient(t, testConfig(m.URL))
	task, err := c.StartTask(t.Context(), "VM.clone", Ref("OpaqueRef:tpl"), "name")
	if err != nil || task != "OpaqueRef:task" {
		t.Fatalf("StartTask = %q, %v", task, err)
	}
	if err := c.DestroyTask(t.Context(), task); err != nil || m.count("task.destroy") != 0 {
		t.Errorf("a pending task was hidden: %v", err)
	}
	status = "success"
	if err := c.DestroyTask(t.Context(), task); err != nil || m.count("task.destroy") != 1 {
		t.Errorf("a finished task stayed: %v", err)
	}
	for _, bad := range []string{"", "OpaqueRef:NULL", "x", "OpaqueRef:<script>"} {
		m := newMember(t, always(ok(bad)))
		if _, err := newClient(t, testConfig(m.URL)).StartTask(t.Context(), "VM.clone"); orchestrator.KindOf(err) != orchestrator.Unknown {
			t.Errorf("StartTask answered %q: %v", bad, err)
		}
	}
}

// told is one report of Follow.
type told struct {
	Task   Ref
	Status TaskStatus
}

// TestFollow walks a pool's tasks through a normal end and a restart of xapi, after which a task is missing without a word.
func TestFollow(t *testing.T) {
	add := func(ref, status string) map[string]any {
		return map[string]any{"class": "task", "operation": "add", "ref": ref, "snapshot": taskRecord{Status: status}}
	}
	pool := map[string]any{"class": "pool", "operation": "add", "ref": "OpaqueRef:pool", "snapshot": map[string]any{}}
	var m *member
	var tokens []string
	step := 0
	m = newMember(t, func(method string, args []json.RawMessage) reply {
		var token string
		json.Unmarshal(args[1], &token)
		tokens = append(tokens, token)
		step++
		switch step {
		case 1:
			return ok(map[string]any{"token": "1", "events": []any{pool, add("OpaqueRef:a", "pending"), add("OpaqueRef:b", "pending"), add("OpaqueRef:old", "success")}})
		case 2:
			return ok(map[string]any{"token": "2", "events": []any{
				map[string]any{"class": "task", "operation": "mod", "ref": "OpaqueRef:a", "snapshot": taskRecord{Status: "success"}},
				map[string]any{"class": "task", "operation": "del", "ref": "OpaqueRef:never-seen"},
				map[string]any{"class": "vm", "operation": "mod", "ref": "OpaqueRef:vm"},
				map[string]any{"class": "task", "operation": "mod", "ref": "DummyRef:|x|task.cancel", "snapshot": taskRecord{Status: "pending"}},
			}})
		case 3:
			m.endSessions() // restart: b is lost
			return ok(map[string]any{"token": "3", "events": []any{}})
		case 4:
			return ok(map[string]any{"token": "4", "events": []any{}}) // the renewed session with the old token: not to be trusted
		default:
			return ok(map[string]any{"token": "5", "events": []any{pool}})
		}
	})
	c := newClient(t, testConfig(m.URL))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []told
	err := c.Follow(ctx, func(task Ref, status TaskStatus) {
		got = append(got, told{task, status})
		if status == TaskGone {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v", err)
	}
	want := []told{{"OpaqueRef:a", TaskPending}, {"OpaqueRef:b", TaskPending}, {"OpaqueRef:old", TaskSuccess}, {"OpaqueRef:a", TaskSuccess}, {"OpaqueRef:b", TaskGone}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"", "1", "2", "3", ""}, tokens[:min(5, len(tokens))]); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	if m.origins[0] != "slipway-events" || m.sessions() != 0 {
		t.Errorf("originators %q, %d sessions left", m.origins, m.sessions())
	}
}
