package xapi

import (
	"errors"
	"strings"
	"testing"

	"slipway/orchestrator"
)

func TestKindOfCodes(t *testing.T) {
	tests := map[string]orchestrator.Kind{
		"SESSION_INVALID":                    orchestrator.Transient,
		"HOST_IS_SLAVE":                      orchestrator.Transient,
		"HOST_STILL_BOOTING":                 orchestrator.Transient,
		"NOT_SUPPORTED_DURING_UPGRADE":       orchestrator.Away,
		"TOO_MANY_PENDING_TASKS":             orchestrator.Transient,
		"CANNOT_CONTACT_HOST":                orchestrator.Transient,
		"VDI_IN_USE":                         orchestrator.Transient,
		"VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT":  orchestrator.Transient,
		"SR_BACKEND_FAILURE_46":              orchestrator.Transient,
		"SOMETHING_NEW":                      orchestrator.Transient,
		"SR_BACKEND_FAILURE_44":              orchestrator.Exhausted,
		"SR_FULL":                            orchestrator.Exhausted,
		"HOST_NOT_ENOUGH_FREE_MEMORY":        orchestrator.Exhausted,
		"HOST_NOT_ENOUGH_PCPUS":              orchestrator.Exhausted,
		"NO_HOSTS_AVAILABLE":                 orchestrator.Exhausted,
		"HOST_OFFLINE":                       orchestrator.Exhausted,
		"HOST_DISABLED":                      orchestrator.Exhausted,
		"VM_REQUIRES_SR":                     orchestrator.Exhausted,
		"HANDLE_INVALID":                     orchestrator.Conflict,
		"VM_BAD_POWER_STATE":                 orchestrator.Conflict,
		"INVALID_VALUE":                      orchestrator.Permanent,
		"MAC_INVALID":                        orchestrator.Permanent,
		"MEMORY_CONSTRAINT_VIOLATION_MAXPIN": orchestrator.Permanent,
		"MESSAGE_PARAMETER_COUNT_MISMATCH":   orchestrator.Permanent,
		"VM_HVM_REQUIRED":                    orchestrator.Permanent,
		"LICENCE_RESTRICTION":                orchestrator.Permanent,
		"OPERATION_BLOCKED":                  orchestrator.Permanent,
		"RBAC_PERMISSION_DENIED":             orchestrator.Permanent,
		"VM_LACKS_FEATURE_SHUTDOWN":          orchestrator.Permanent,
		"INTERNAL_ERROR":                     orchestrator.Permanent,
	}
	for code, want := range tests {
		err := classify("op", &Error{Code: code})
		if got := orchestrator.KindOf(err); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Code != code || !HasCode(err, "X", code) || HasCode(err, "X") {
			t.Errorf("%s is not reachable in %v", code, err)
		}
	}
}

func TestErrorTextIsOneSafeLine(t *testing.T) {
	e := &Error{Method: "VM.start", Code: "X", Params: []string{"a\n\x1b[2Jb", strings.Repeat("y", 5000)}}
	s := e.Error()
	if strings.ContainsAny(s, "\n\x1b") || len(s) > 600 || !strings.HasPrefix(s, `VM.start: X("a\n\x1b[2Jb", yyy`) {
		t.Errorf("text %q", s)
	}
	if e.Param(0) == "" || e.Param(2) != "" || e.Param(-1) != "" {
		t.Error("Param is off")
	}
}
