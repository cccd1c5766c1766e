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

// MemberTrace is what one member of a group says that its server has heard of an address.
type MemberTrace struct {
	Name  string
	Trace apply.Trace
	Err   error // why that is not known
}

// Trace asks every member of a group at once, in the order of the configuration. It changes nothing anywhere. An unknown group is
// ErrNotFound.
func (c *Controller) Trace(ctx context.Context, group, mac string) ([]MemberTrace, error) {
	l, err := c.loopOf(group)
	if err != nil {
		return nil, err
	}
	appliances := l.group.appliances()
	out := make([]MemberTrace, len(appliances))
	var asking sync.WaitGroup
	for i, m := range appliances {
		asking.Go(func() {
			out[i].Name = m.Name
			out[i].Trace, out[i].Err = traceOn(ctx, m.Carrier, l.group.Unit, mac)
		})
	}
	asking.Wait()
	return out, nil
}

func traceOn(ctx context.Context, c Carrier, unit orchestrator.Unit, mac string) (apply.Trace, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	answer, err := c.Apply(ctx, apply.Request{Unit: string(unit), ReadOnly: true, Trace: mac})
	switch {
	case err != nil:
		return apply.Trace{}, fmt.Errorf("no answer: %w", err)
	case answer.Code == apply.Refused && strings.Contains(answer.Message, `"trace"`):
		return apply.Trace{}, errors.New("its agent is older than this worker and cannot be asked: install the same version")
	case answer.Code != apply.Traced || answer.Trace == nil:
		return apply.Trace{}, fmt.Errorf("%s: %s", answer.Code, answer.Message)
	}
	return *answer.Trace, nil
}
