package orchestrator

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what the engine does about an error; nothing else about it decides (backends classify at their edge).
type Kind string

const (
	// Transient: it may work later; tried again by the row's policy.
	Transient Kind = "transient"
	// Away: who should answer cannot be reached, and nothing can have changed by asking; waits within the row's budget and uses up no attempt.
	Away Kind = "away"
	// Exhausted: no capacity now (no address, no room, a full storage); waits for capacity and uses up no attempt.
	Exhausted Kind = "exhausted"
	// Conflict: somebody else was faster; reload and decide again, at once.
	Conflict Kind = "conflict"
	// Unknown: the answer was lost. Observe first; no second act while a task or job of ours may still run.
	Unknown Kind = "unknown"
	// Permanent: no repetition helps; the run parks for an operator.
	Permanent Kind = "permanent"
	// Canceled: somebody asked to stop.
	Canceled Kind = "canceled"
)

// Kinds lists every kind, in the order of the documentation.
func Kinds() []Kind {
	return []Kind{Transient, Away, Exhausted, Conflict, Unknown, Permanent, Canceled}
}

// Error is a failure with a kind. Op names what was tried ("xapi.CloneMachine"), Err says on which object and why.
type Error struct {
	Op   string
	Kind Kind
	Err  error
}

// E makes an Error. A nil err gives nil, so that it can wrap a result directly.
func E(op string, kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Kind: kind, Err: err}
}

// Errorf is E with a formatted message; %w keeps the cause reachable.
func Errorf(op string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost Error in the chain. A deadline that ran out is Unknown (the act may have happened), a canceled
// context is Canceled, and an error that nobody classified is Transient: bounded by the row's attempts, it parks in the end.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Unknown
	case errors.Is(err, context.Canceled):
		return Canceled
	default:
		return Transient
	}
}
