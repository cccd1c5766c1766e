package agent

import (
	"context"
	"fmt"
	"net"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Tracer is an optional part of a Unit: Trace looks through what its server has logged of late for a hardware address. It has no effect.
type Tracer interface {
	Trace(ctx context.Context, mac string) (apply.Trace, error)
}

// trace answers what the unit's server has said of an address. It touches nothing of what an apply does, and waits for none.
func (j *job) trace(ctx context.Context) apply.Answer {
	if !j.req.ReadOnly || j.req.Survey || len(j.req.Files) > 0 || len(j.req.Cut) > 0 || j.req.CheckOnly || j.req.Rows != 0 || j.req.Expect != "" {
		return answerf(apply.Refused, "a trace is read-only and carries a unit and an address only")
	}
	if mac, err := net.ParseMAC(j.req.Trace); err != nil || len(mac) != 6 || mac.String() != j.req.Trace {
		return answerf(apply.Refused, "trace %q is no hardware address as 02:00:00:00:00:01", j.req.Trace)
	}
	unit := j.unit
	if d, ok := unit.(directory); ok {
		unit = d.Unit
	}
	tracer, ok := unit.(Tracer)
	if !ok {
		return answerf(apply.Unsupported, "unit %q has no log to look through", j.req.Unit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, observeTimeout, fmt.Errorf("no answer within %s", observeTimeout))
	defer cancel()
	found, err := tracer.Trace(ctx, j.req.Trace)
	if err != nil {
		return answerf(apply.Unsupported, "%v", err)
	}
	found.Lines = found.Lines[max(0, len(found.Lines)-apply.MaxTrace):]
	for i, line := range found.Lines {
		found.Lines[i] = orchestrator.OneLine(line, apply.MaxText)
	}
	return apply.Answer{Code: apply.Traced, Trace: &found}
}
