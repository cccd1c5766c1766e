package appliance

import (
	"context"
	"errors"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// MemberSurvey is what one member of a group has that is not ours.
type MemberSurvey struct {
	Name   string
	Survey apply.Survey
	Err    error // why it could not be read
}

// Survey asks every member of a group at once, in the order of the configuration. It changes nothing anywhere. An unknown group is
// ErrNotFound.
func (c *Controller) Survey(ctx context.Context, group string) ([]MemberSurvey, error) {
	return eachMember(ctx, c, group, func(ctx context.Context, g Group, m Member) (out MemberSurvey) {
		out.Name = m.Name
		out.Survey, out.Err = Survey(ctx, m.Carrier, g.Unit)
		return out
	})
}

// Survey asks one appliance.
func Survey(ctx context.Context, c Carrier, unit orchestrator.Unit) (apply.Survey, error) {
	answer, err := question(ctx, c, apply.Request{Unit: string(unit), Survey: true}, apply.Surveyed, "survey", "read_only")
	switch {
	case err != nil:
		return apply.Survey{}, err
	case answer.Survey == nil:
		return apply.Survey{}, errors.New("the answer has no survey in it")
	}
	return *answer.Survey, nil
}
