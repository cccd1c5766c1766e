package winrm

import (
	"testing"

	"slipway/orchestrator"
)

// A client whose connection breaks in a restart never hears of the shell that it was asking for, and cannot close it.
func TestRestartLeavesNoShell(t *testing.T) {
	t.Parallel()
	s, err := New(Config{User: "Administrator", Password: orchestrator.NewSecret("secret"), Restart: []Window{{Answer: Setup}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := request{resource: resourceCmd, action: actionCreate}
	before := s.http
	s.Restart()
	if _, err := s.create(before, "Administrator", r); err == nil || s.Stats().OpenShells != 0 {
		t.Errorf("asked before the restart: %v, %d shells are open", err, s.Stats().OpenShells)
	}
	if _, err := s.create(s.http, "Administrator", r); err != nil || s.Stats().OpenShells != 1 {
		t.Errorf("asked after the restart: %v, %d shells are open", err, s.Stats().OpenShells)
	}
}
