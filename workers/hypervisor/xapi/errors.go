package xapi

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

// Codes that this package decides on. Each is spelled as in XenAPI's datamodel.
const (
	codeHandleInvalid          = "HANDLE_INVALID"
	codeHostIsSlave            = "HOST_IS_SLAVE"
	codeLicenceRestriction     = "LICENCE_RESTRICTION"
	codeMapDuplicateKey        = "MAP_DUPLICATE_KEY"
	codeNoHostsAvailable       = "NO_HOSTS_AVAILABLE"
	codeNotEnoughMemory        = "HOST_NOT_ENOUGH_FREE_MEMORY"
	codeProvisionOnlyTemplates = "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"
	codeSessionInvalid         = "SESSION_INVALID"
	codeTokenParse             = "EVENT_FROM_TOKEN_PARSE_FAILURE"
	codeUUIDInvalid            = "UUID_INVALID"
	codeVDIInUse               = "VDI_IN_USE"
	codeBadPowerState          = "VM_BAD_POWER_STATE"
)

// Error is a failure that xapi itself reported: it received the call and answered with a code. Reach it with errors.As, or ask for one
// code with HasCode.
type Error struct {
	Method string   // what was called, "VM.start"; for a task, the call that made it
	Code   string   // "HANDLE_INVALID"
	Params []string // the code's parameters as documented in the datamodel; session references are taken out
}

// Error prints "VM.start: HOST_NOT_ENOUGH_FREE_MEMORY(1000, 20)".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Method != "" {
		b.WriteString(e.Method + ": ")
	}
	b.WriteString(printable(e.Code) + "(")
	for i, p := range e.Params {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(printable(p))
	}
	b.WriteString(")")
	return b.String()
}

// Param is the i-th parameter, or "" when the server sent fewer.
func (e *Error) Param(i int) string {
	if i < 0 || i >= len(e.Params) {
		return ""
	}
	return e.Params[i]
}

// Kind is what the orchestrator should do about the code when nobody nearer to the call knows better.
func (e *Error) Kind() orchestrator.Kind {
	if kind, ok := kindOfCode(e.Code); ok {
		return kind
	}
	for _, family := range []struct {
		prefix string
		kind   orchestrator.Kind
	}{
		{"SR_BACKEND_FAILURE_", orchestrator.Transient}, // a storage driver's trouble; 44 is in the table
		{"MEMORY_CONSTRAINT_VIOLATION", orchestrator.Permanent},
		{"MESSAGE_", orchestrator.Permanent},
		{"VM_LACKS_FEATURE", orchestrator.Permanent},
	} {
		if strings.HasPrefix(e.Code, family.prefix) {
			return family.kind
		}
	}
	return orchestrator.Transient // not listed: bounded by the row's attempts
}

// kindOfCode is the table of codes, after XenAPI's datamodel and what a real xapi 24.11 was seen to mean by them.
func kindOfCode(code string) (orchestrator.Kind, bool) {
	switch code {
	case codeSessionInvalid, codeHostIsSlave, // still so after the client's own renewal and redirects
		"SESSION_AUTHENTICATION_FAILED", // PAM away or a password just rotated: every run would park for nothing
		"HOST_STILL_BOOTING", "CANNOT_CONTACT_HOST",
		"TOO_MANY_PENDING_TASKS", "OTHER_OPERATION_IN_PROGRESS",
		codeVDIInUse, "SR_HAS_NO_PBDS",
		"VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", "VM_SHUTDOWN_TIMEOUT",
		"TASK_CANCELLED": // by somebody on the pool: this package never cancels a task
		return orchestrator.Transient, true

	case "NOT_SUPPORTED_DURING_UPGRADE": // refused before anything was done, until the pool's rolling upgrade is over
		return orchestrator.Away, true

	case codeNotEnoughMemory, "HOST_NOT_ENOUGH_PCPUS", codeNoHostsAvailable, "HOST_DISABLED", "HOST_OFFLINE", "HOST_NOT_LIVE",
		"VM_REQUIRES_SR", "VM_REQUIRES_NETWORK", "HOST_CANNOT_ATTACH_NETWORK",
		"SR_FULL", "SR_BACKEND_FAILURE_44": // SR_FULL is declared; 44 is what a full storage really answers
		return orchestrator.Exhausted, true

	case codeHandleInvalid, codeBadPowerState, codeMapDuplicateKey, codeProvisionOnlyTemplates, "DEVICE_ALREADY_EXISTS":
		return orchestrator.Conflict, true // the object changed under us: look again

	case codeUUIDInvalid,
		"INVALID_VALUE", "VALUE_NOT_SUPPORTED", "MAC_INVALID", "INVALID_DEVICE", "VM_IS_TEMPLATE", "VM_HVM_REQUIRED", "FIELD_TYPE_ERROR",
		codeLicenceRestriction, "OPERATION_NOT_ALLOWED", "OPERATION_BLOCKED", "RBAC_PERMISSION_DENIED",
		"VM_IS_PROTECTED", "VM_MISSING_PV_DRIVERS", "SESSION_NOT_REGISTERED",
		"INTERNAL_ERROR": // also xapi's word for a malformed argument: repeating it blindly helps nobody
		return orchestrator.Permanent, true
	}
	return "", false
}

// HasCode reports whether xapi's own answer in err's chain carries one of the codes.
func HasCode(err error, codes ...string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}

// lostError is a call without a usable answer.
type lostError struct {
	method   string
	sent     bool // xapi may have seen the call
	answered bool // the member is alive and answered, but not in a way that we understand: another member would not help
	err      error
}

func (e *lostError) Error() string {
	if e.sent {
		return fmt.Sprintf("%s: no usable answer: %v", e.method, e.err)
	}
	return fmt.Sprintf("%s: not sent: %v", e.method, e.err)
}

func (e *lostError) Unwrap() error { return e.err }

// classify gives err the orchestrator's kind, once, at the edge of this package.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	var have *orchestrator.Error
	if errors.As(err, &have) {
		return err
	}
	var answered *Error
	if errors.As(err, &answered) {
		return orchestrator.E(op, answered.Kind(), err)
	}
	var lost *lostError
	switch {
	case !errors.As(err, &lost):
		return orchestrator.E(op, orchestrator.Transient, err)
	case lost.sent && !repeatable(lost.method):
		return orchestrator.E(op, orchestrator.Unknown, err)
	case lost.answered || impostor(err): // somebody is there, and it is no outage that passes
		return orchestrator.E(op, orchestrator.Transient, err)
	default:
		return orchestrator.E(op, orchestrator.Away, err)
	}
}

// errImpostor is a server that is not the one that we know.
var errImpostor = errors.New("not the pool's certificate")

func impostor(err error) bool {
	var refused *tls.CertificateVerificationError
	return errors.Is(err, errImpostor) || errors.As(err, &refused)
}

const maxShown = 256

// printable makes foreign text safe for a terminal and a log line: bounded, one line, no control characters.
func printable(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
