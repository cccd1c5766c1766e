package iptables

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"slipway/orchestrator"
)

// followPoll bounds how long a change stays unseen that the kernel told nobody of; repeatAfter is ANNOUNCE_INTERVAL of RFC 5227, after
// which an announcement is made once more.
const (
	followPoll  = 10 * time.Second
	repeatAfter = 2 * time.Second
)

// Follow keeps the announcements right while ctx lasts: it announces when this firewall becomes the active one of several, and when it
// has started. The way back needs nobody, the kernel withdraws by itself. What fails is logged and tried again; an error is a firewall
// that has nothing to announce by its configuration.
func (u *Unit) Follow(ctx context.Context) error {
	const op = "iptables.Follow"
	if u.cfg.Announce == nil {
		return orchestrator.E(op, orchestrator.Permanent, errors.New("the firewall's section has no announce; nothing is to be followed"))
	}
	changes := make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	defer func() {
		close(done)
		for range changes { // closed by the subscription when it has ended
		}
	}()
	broken := make(chan error, 1)
	if err := netlink.AddrSubscribeWithOptions(changes, done, netlink.AddrSubscribeOptions{ErrorCallback: func(err error) {
		select {
		case broken <- err:
		default:
		}
	}}); err != nil {
		close(changes)
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	poll := time.NewTicker(followPoll)
	defer poll.Stop()
	var repeat <-chan time.Time
	known := map[netip.Addr]bool{} // announced twice, or about to be
	var again []netip.Addr
	for {
		fresh, err := u.follow(ctx, known)
		if err != nil && ctx.Err() == nil {
			u.cfg.Log.ErrorContext(ctx, "the announced addresses could not be put right", "error", err)
		}
		if len(fresh) > 0 {
			again = append(again, fresh...)
			repeat = time.After(repeatAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case change, ok := <-changes:
			if !ok {
				return orchestrator.Errorf(op, orchestrator.Transient, "the kernel's news of addresses ended: %w", <-broken)
			}
			if a := address(change.LinkAddress.IP); a != u.source() {
				continue
			}
			u.cfg.Log.InfoContext(ctx, "this firewall's role has changed", "address", u.source(), "active", change.NewAddr)
		case <-poll.C:
		case <-repeat:
			u.cry(ctx, slices.DeleteFunc(again, func(a netip.Addr) bool { return !known[a] }))
			again = nil
		}
	}
}

// follow puts the announcements right if they are not, and returns those that known lacked; known is then what is announced.
func (u *Unit) follow(ctx context.Context, known map[netip.Addr]bool) (fresh []netip.Addr, err error) {
	release, err := u.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	wanted, err := u.filed()
	if err != nil {
		return nil, err
	}
	if u.unlike(wanted) != nil { // the long way, by the rules themselves
		rules, _, err := u.live(ctx)
		if err != nil {
			return nil, err
		}
		if err := u.announce(ctx, rules); err != nil {
			return nil, err
		}
	}
	r, err := openRoutes()
	if err != nil {
		return nil, err
	}
	defer r.close()
	have, err := r.ours()
	if err != nil {
		return nil, err
	}
	for a := range known {
		if _, ok := have[a]; !ok {
			delete(known, a)
		}
	}
	for a := range have {
		if !known[a] {
			known[a] = true
			fresh = append(fresh, a)
		}
	}
	slices.SortFunc(fresh, netip.Addr.Compare)
	return fresh, nil
}
