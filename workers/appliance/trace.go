package appliance

import (
	"context"
	"errors"

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
	return eachMember(ctx, c, group, func(ctx context.Context, g Group, m Member) MemberTrace {
		answer, err := question(ctx, m.Carrier, apply.Request{Unit: string(g.Unit), Trace: mac}, apply.Traced, "trace")
		switch {
		case err != nil:
			return MemberTrace{Name: m.Name, Err: err}
		case answer.Trace == nil:
			return MemberTrace{Name: m.Name, Err: errors.New("the answer has no trace in it")}
		}
		return MemberTrace{Name: m.Name, Trace: *answer.Trace}
	})
}
