package qemu

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"slipway/sim/xapi"
)

// How often a guest's agent is asked: while it is new, and once it has an address.
const (
	agentEager = 500 * time.Millisecond
	agentCalm  = 5 * time.Second
	maxReport  = 16 // addresses of one interface: the guest writes them itself
)

// agent listens to the QEMU guest agent of one guest (QEMU's docs/interop/qemu-ga-ref). What comes from it is the guest's word.
type agent struct {
	wire   *monitor
	report func(*xapi.GuestReport)
	open   chan bool
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newAgent(conn *net.UnixConn, report func(*xapi.GuestReport)) *agent {
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{wire: newMonitor(conn, nil), report: report, open: make(chan bool, 16), cancel: cancel}
	a.done.Go(func() { a.run(ctx) })
	return a
}

// attend says that the guest has opened its port, or closed it.
func (a *agent) attend(open bool) {
	select {
	case a.open <- open:
	default: // it opens and closes faster than anybody looks
	}
}

func (a *agent) close() {
	a.cancel()
	a.wire.close()
	a.done.Wait()
}

func (a *agent) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for open := false; ; {
		select {
		case <-ctx.Done():
			return
		case open = <-a.open:
			if !open {
				a.report(nil)
			}
		case <-timer.C:
		}
		if !open {
			continue
		}
		next := agentEager
		if r, err := a.look(ctx); err == nil {
			a.report(r)
			if len(r.Addresses) > 0 {
				next = agentCalm
			}
		}
		timer.Reset(next)
	}
}

// look asks for what XenServer's tools would have told.
func (a *agent) look(ctx context.Context) (*xapi.GuestReport, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	var info struct {
		Version string `json:"version"`
	}
	if err := a.wire.ask(ctx, "guest-info", nil, &info, nil); err != nil {
		return nil, err
	}
	var os struct {
		ID      string `json:"id"`
		Name    string `json:"pretty-name"`
		Version string `json:"version-id"`
		Kernel  string `json:"kernel-release"`
	}
	if err := a.wire.ask(ctx, "guest-get-osinfo", nil, &os, nil); err != nil {
		return nil, err
	}
	var links []struct {
		MAC       string `json:"hardware-address"`
		Addresses []struct {
			Address string `json:"ip-address"`
		} `json:"ip-addresses"`
	}
	if err := a.wire.ask(ctx, "guest-network-get-interfaces", nil, &links, nil); err != nil {
		return nil, err
	}
	major, minor, _ := strings.Cut(os.Version, ".")
	r := &xapi.GuestReport{
		Agent: short(info.Version), Addresses: map[string][]netip.Addr{},
		OS: map[string]string{"name": short(os.Name), "distro": short(os.ID), "uname": short(os.Kernel), "major": short(major), "minor": short(minor)},
	}
	for _, link := range links[:min(len(links), maxReport)] {
		for _, given := range link.Addresses[:min(len(link.Addresses), maxReport)] {
			address, err := netip.ParseAddr(given.Address)
			if err != nil || address.IsLoopback() || address.IsLinkLocalUnicast() || link.MAC == "" {
				continue
			}
			mac := strings.ToLower(link.MAC)
			r.Addresses[mac] = append(r.Addresses[mac], address)
		}
	}
	return r, nil
}

// short bounds a text of the guest.
func short(s string) string { return strings.ToValidUTF8(s[:min(len(s), 200)], "") }
