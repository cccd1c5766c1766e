package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"slipway/workers/appliance/apply"
)

// eachMember asks every member of a group at once, in the order of the configuration. An unknown group is ErrNotFound.
func eachMember[T any](ctx context.Context, c *Controller, group string, ask func(context.Context, Group, Member) T) ([]T, error) {
	l, err := c.loopOf(group)
	if err != nil {
		return nil, err
	}
	appliances := l.group.appliances()
	out := make([]T, len(appliances))
	var asking sync.WaitGroup
	for i, m := range appliances {
		asking.Go(func() { out[i] = ask(ctx, l.group, m) })
	}
	asking.Wait()
	return out, nil
}

// question sends a read-only request whose answer has a code of its own. An agent that is older than the question names one of its words.
func question(ctx context.Context, c Carrier, req apply.Request, want apply.Code, words ...string) (apply.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	req.ReadOnly = true
	answer, err := c.Apply(ctx, req)
	if err != nil {
		return answer, fmt.Errorf("no answer: %w", err)
	}
	if answer.Code == want {
		return answer, nil
	}
	for _, word := range words {
		if answer.Code == apply.Refused && strings.Contains(answer.Message, `"`+word+`"`) {
			return answer, errors.New("its agent is older than this worker and cannot be asked: install the same version")
		}
	}
	return answer, fmt.Errorf("%s: %s", answer.Code, answer.Message)
}
