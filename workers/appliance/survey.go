package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

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
	l, err := c.loopOf(group)
	if err != nil {
		return nil, err
	}
	appliances := l.group.appliances()
	out := make([]MemberSurvey, len(appliances))
	var asking sync.WaitGroup
	for i, m := range appliances {
		asking.Go(func() {
			out[i].Name = m.Name
			out[i].Survey, out[i].Err = Survey(ctx, m.Carrier, l.group.Unit)
		})
	}
	asking.Wait()
	return out, nil
}

// Survey asks one appliance.
func Survey(ctx context.Context, c Carrier, unit orchestrator.Unit) (apply.Survey, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	answer, err := c.Apply(ctx, apply.Request{Unit: string(unit), ReadOnly: true, Survey: true})
	switch {
	case err != nil:
		return apply.Survey{}, fmt.Errorf("no answer: %w", err)
	case answer.Code == apply.Refused && (strings.Contains(answer.Message, `"survey"`) || strings.Contains(answer.Message, `"read_only"`)):
		return apply.Survey{}, errors.New("its agent is older than this worker and cannot be asked: install the same version")
	case answer.Code != apply.Surveyed || answer.Survey == nil:
		return apply.Survey{}, fmt.Errorf("%s: %s", answer.Code, answer.Message)
	}
	return *answer.Survey, nil
}
