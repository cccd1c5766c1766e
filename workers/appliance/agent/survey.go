package agent

import (
	"context"
	"fmt"
	"path/filepath"

	"slipway/workers/appliance/apply"
)

// Surveyor is an optional part of a Unit: Survey reads what is on the appliance around our part. It has no effect, reads nothing but what
// the unit's server itself is configured with, and hands on no secret. An error names the file and line.
type Surveyor interface {
	Survey(ctx context.Context) (apply.Survey, error)
}

// survey answers what is there that is not ours. Like observe it writes nothing and needs no fence.
func (j *job) survey(ctx context.Context) apply.Answer {
	if !j.req.ReadOnly || len(j.req.Files) > 0 || len(j.req.Cut) > 0 || j.req.CheckOnly || j.req.Rows != 0 || j.req.Expect != "" {
		return answerf(apply.Refused, "a survey is read-only and carries a unit only")
	}
	unit := j.unit
	if d, ok := unit.(directory); ok {
		unit = d.Unit
	}
	surveyor, ok := unit.(Surveyor)
	if !ok {
		return answerf(apply.Unsupported, "unit %q cannot tell what is not ours", j.req.Unit)
	}
	release, err := share(ctx, filepath.Join(j.store.dir, "lock"), j.agent.lockWait)
	if err != nil {
		return answerf(apply.Busy, "%v", err)
	}
	defer release()
	ctx, cancel := context.WithTimeoutCause(ctx, observeTimeout, fmt.Errorf("no answer within %s", observeTimeout))
	defer cancel()
	found, err := surveyor.Survey(ctx)
	if err != nil {
		return answerf(apply.Unsupported, "%v", err)
	}
	for i, note := range found.Notes {
		found.Notes[i] = clean(note)
	}
	return apply.Answer{Code: apply.Surveyed, Survey: &found}
}
