package service

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

const (
	signsTimeout = 15 * time.Second
	portTimeout  = 5 * time.Second // a router asks for a neighbour for three before it gives up
	screenWatch  = 2 * time.Second // between two looks at a screen; a kernel that boots writes more often
	cursorPart   = 2               // thousandths of a screen that a blinking cursor changes at most
)

// signs are what can be seen from outside of a guest that nobody has reached yet: what the DHCP servers have heard of it, its agent, its login
// port, its screen. When its run was given up and none of them shows any life, the last line says what that means.
func (s *Service) signs(ctx context.Context, m orchestrator.Machine, givenUp bool) []string {
	ctx, cancel := context.WithTimeout(ctx, signsTimeout)
	defer cancel()
	ref := orchestrator.MachineRef{Pool: m.Placement.Pool, Machine: m.ID, VM: m.VM, LookOnly: true}
	vm, err := s.Xapi.FindMachine(ctx, ref)
	if err != nil || vm.Power != "running" {
		return nil // what is the matter has been said
	}
	heard := make(chan sign, 1)
	go func() { heard <- s.dhcpSign(ctx, m.Placement) }() // an appliance may take its time, within that of all signs
	said, alive := agentSign(vm, m.Placement)
	found := []string{said}
	if ports, err := s.installer.Ports(m.Image); err == nil && len(ports) > 0 && m.Placement.Reached().IsValid() {
		said, answers := s.portSign(ctx, netip.AddrPortFrom(m.Placement.Reached(), ports[0]))
		found, alive = append(found, said), alive || answers
	}
	said, moves := s.screenSign(ctx, ref)
	found, alive = append(found, said), alive || moves
	dhcp := <-heard
	found, alive = append(dhcp.said, found...), alive || dhcp.alive
	if givenUp && !alive {
		found = append(found, "the guest is dead, by all that can be seen: its VM runs, and nothing in it does; look at what the image's disk has")
	}
	return found
}

// sign is what one way to look has shown.
type sign struct {
	said  []string
	alive bool
}

// dhcpSign asks the machine's DHCP servers what they have logged of its MAC. What they have heard may be from an earlier boot: it speaks for a
// guest that lives, so that nobody is called dead who is not.
func (s *Service) dhcpSign(ctx context.Context, p orchestrator.Placement) (out sign) {
	if p.DHCP == "" {
		return sign{} // served by others
	}
	members, err := s.controller.Trace(ctx, p.DHCP, p.MAC)
	if err != nil {
		return sign{said: []string{fmt.Sprintf("what DHCP has heard of it is not known: %v", err)}}
	}
	for _, m := range members {
		switch {
		case m.Err != nil:
			out.said = append(out.said, fmt.Sprintf("%s cannot say what it has heard of %s: %v", m.Name, p.MAC, m.Err))
		case m.Trace.Read == 0:
			out.said = append(out.said, fmt.Sprintf("%s cannot say what it has heard of %s: its DHCP server's log is empty", m.Name, p.MAC))
		case m.Trace.Count == 0:
			out.said = append(out.said, fmt.Sprintf("%s has heard nothing of %s: the last %d lines of its DHCP server's log do not name it", m.Name, p.MAC, m.Trace.Read))
		default:
			out.alive = true
			out.said = append(out.said, fmt.Sprintf("%s has %d lines about %s in its DHCP server's log, the last: %s", m.Name, m.Trace.Count, p.MAC, m.Trace.Lines[len(m.Trace.Lines)-1]))
		}
	}
	return out
}

func agentSign(vm orchestrator.VM, p orchestrator.Placement) (said string, alive bool) {
	if !vm.GuestLive {
		return "no agent in the guest has reported since it was started", false
	}
	for _, vif := range vm.VIFs {
		if vif.MAC == p.MAC && len(vif.Addresses) > 0 {
			return fmt.Sprintf("the agent in the guest reports the address %s", vif.Addresses[0]), true
		}
	}
	return "the agent in the guest reports, and no address on our interface", true
}

func (s *Service) portSign(ctx context.Context, target netip.AddrPort) (said string, alive bool) {
	ctx, cancel := context.WithTimeout(ctx, portTimeout)
	defer cancel()
	conn, err := s.dial(ctx, "tcp", target.String())
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Sprintf("%s answers", target), true
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refuses: something at that address is up", target), true
	case errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("%s: the router before it says that it has no such neighbour: nothing there answers ARP", target), false
	}
	return fmt.Sprintf("%s does not answer: %s", target, strings.TrimPrefix(err.Error(), "dial tcp ")), false
}

// screenSign looks twice at the framebuffer.
func (s *Service) screenSign(ctx context.Context, ref orchestrator.MachineRef) (said string, alive bool) {
	conn, err := s.Xapi.OpenDisplay(ctx, ref)
	if err != nil {
		return fmt.Sprintf("its screen could not be opened: %v", err), false
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done about it
	screen, err := rfb.OpenScreen(ctx, conn, orchestrator.Secret{})
	if err != nil {
		return fmt.Sprintf("its screen could not be opened: %v", err), false
	}
	first, err := screen.Look(ctx)
	if err != nil {
		return fmt.Sprintf("its screen could not be read: %v", err), false
	}
	wait := time.NewTimer(screenWatch)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return "its screen could not be watched long enough", false
	}
	second, err := screen.Look(ctx)
	if err != nil {
		return fmt.Sprintf("its screen could not be read: %v", err), false
	}
	size := fmt.Sprintf("its screen (%d by %d) ", screen.Width, screen.Height)
	switch lit, changed := rfb.Lit(second), rfb.Changed(first, second); {
	case changed > cursorPart:
		return size + fmt.Sprintf("moves: %d of 1000 pixels changed within %s", changed, screenWatch), true
	case lit == 0:
		return size + fmt.Sprintf("is black and does not change within %s", screenWatch), false
	default:
		return size + fmt.Sprintf("stands still: %d of 1000 pixels are lit and nothing but a cursor changes within %s", lit, screenWatch), false
	}
}
