package ssh

import (
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		out  string
		want orchestrator.JobStatus
		bad  bool
	}{
		{"state=running exit=0 stage=packages: waiting\nlog\n", orchestrator.JobStatus{State: orchestrator.JobRunning, Stage: "packages: waiting", Log: []byte("log\n"), Offset: 14}, false},
		{"state=exited exit=7 stage=-\n", orchestrator.JobStatus{State: orchestrator.JobExited, Exit: 7, Log: []byte{}, Offset: 10}, false},
		{"state=lost exit=0 stage=\x1b[31mred\x07\n", orchestrator.JobStatus{State: orchestrator.JobLost, Stage: "[31mred", Log: []byte{}, Offset: 10}, false},
		{"", orchestrator.JobStatus{}, true},
		{"state=running exit=0 stage=x", orchestrator.JobStatus{}, true},
		{"state=happy exit=0 stage=x\n", orchestrator.JobStatus{}, true},
		{"state=exited exit=999 stage=x\n", orchestrator.JobStatus{}, true},
		{"Welcome!\nstate=running exit=0 stage=x\n", orchestrator.JobStatus{}, true},
	} {
		got, err := parseStatus([]byte(row.out), 10)
		if (err != nil) != row.bad {
			t.Errorf("%q: %v", row.out, err)
			continue
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.out, diff)
		}
	}
}

func TestParseInspection(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0a", 16)
	for _, row := range []struct {
		out  string
		want orchestrator.Inspection
		bad  bool
	}{
		{"identity=" + id + "\nhostname=ok\nmachine_id=failed: empty\nnoise\n", orchestrator.Inspection{Identity: id, Checks: map[string]string{"hostname": "ok", "machine_id": "empty"}}, false},
		{"identity=\nhostname=ok\n", orchestrator.Inspection{Checks: map[string]string{"hostname": "ok"}}, false},
		{"identity=" + id + "\n", orchestrator.Inspection{}, true},
		{"hostname=ok\n", orchestrator.Inspection{}, true},
		{"identity=xyz\nhostname=ok\n", orchestrator.Inspection{}, true},
	} {
		got, err := parseInspection([]byte(row.out))
		if (err != nil) != row.bad {
			t.Errorf("%q: %v", row.out, err)
			continue
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.out, diff)
		}
	}
}

// A guest is its customer's: whatever it says, it is bounded and cannot steer a terminal.
func FuzzGuestAnswers(f *testing.F) {
	f.Add([]byte("state=running exit=0 stage=x\nlog"))
	f.Add([]byte("identity=\nhostname=failed: \x1b[2J\u202e\u009b\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		words := []string{said(out)}
		if s, err := parseStatus(out, 5); err == nil {
			words = append(words, s.Stage)
			if s.Exit < 0 || s.Exit > 255 || s.Offset != 5+int64(len(s.Log)) {
				t.Errorf("%+v", s)
			}
		}
		if i, err := parseInspection(out); err == nil {
			for name, result := range i.Checks {
				words = append(words, name)
				if len(result) > maxWords+len("…") {
					t.Errorf("check %s has %d bytes", name, len(result))
				}
				words = append(words, result)
			}
		}
		for _, w := range words {
			if strings.ContainsFunc(w, unicode.IsControl) {
				t.Errorf("%q has a control character", w)
			}
		}
	})
}
