package xapi

import (
	"context"
	"sync"
	"time"
)

// guestPoll is how often Config.GuestAddress is asked about guests that have no address yet.
const guestPoll = 200 * time.Millisecond

// guestBook is what simulated guests reported: addresses by MAC.
type guestBook struct {
	addresses map[string]string // guarded by Server.mu
	booted    chan struct{}     // a guest booted: ask at once
}

// ReportGuest is what the agent in a guest does: it makes the address behind a MAC known to the pool. The empty address takes it back.
func (s *Server) ReportGuest(mac, ip string) {
	s.mu.Lock()
	defer s.unlock()
	mac = normalMAC(mac)
	if ip == "" {
		delete(s.guests.addresses, mac)
	} else {
		s.guests.addresses[mac] = ip
	}
	for _, vif := range s.db.all("VIF") {
		if normalMAC(vif.str("MAC")) == mac && vif.flag("currently_attached") {
			s.report(s.db.get("VM", vif.str("VM")))
		}
	}
}

// newGuest replaces the guest metrics at a boot: a new row, the old one is gone.
func (s *Server) newGuest(vm *object) {
	db := s.db
	if old := s.guest(vm); old != nil {
		db.destroy(old)
	}
	if s.cfg.Guests != nil { // the agent in the guest makes one
		db.set(vm, "guest_metrics", nullRef)
		return
	}
	gm := db.create("VM_guest_metrics", map[string]any{
		"os_version":         map[string]any{"name": "Debian 12"},
		"PV_drivers_version": map[string]any{"major": "8", "minor": "2", "micro": "1", "build": "1"}, "PV_drivers_up_to_date": true,
		"other": map[string]any{"feature-shutdown": "1"}, "last_updated": s.today(), "live": true, "PV_drivers_detected": true,
		"can_use_hotplug_vbd": "unspecified", "can_use_hotplug_vif": "unspecified",
	})
	db.set(vm, "guest_metrics", gm.ref)
	s.report(vm)
	select {
	case s.guests.booted <- struct{}{}:
	default:
	}
}

func (s *Server) guest(vm *object) *object {
	return s.db.get("VM_guest_metrics", vm.str("guest_metrics"))
}

// report writes the known addresses of a VM's interfaces. The number in a key is the VIF's device.
func (s *Server) report(vm *object) {
	if vm == nil {
		return
	}
	gm := s.guest(vm)
	if gm == nil || vm.str("resident_on") == nullRef {
		return
	}
	networks := map[string]any{}
	for _, vif := range s.db.refs(vm, "VIFs") {
		mac := normalMAC(vif.str("MAC"))
		ip, ok := s.guests.addresses[mac]
		if ok && ip != "" {
			networks[vif.str("device")+"/ip"], networks[vif.str("device")+"/ipv4/0"] = ip, ip
		}
	}
	if same(gm.get("networks"), networks) {
		return
	}
	s.db.set(gm, "networks", networks)
	s.db.set(gm, "last_updated", s.today())
}

// watchGuests asks for the addresses of running guests until the server closes.
func (s *Server) watchGuests() {
	t := time.NewTicker(guestPoll)
	defer t.Stop()
	for {
		select {
		case <-s.base.Done():
			return
		case <-t.C:
		case <-s.guests.booted:
		}
		for _, mac := range s.silent() {
			if ip, ok := s.cfg.GuestAddress(mac); ok {
				s.ReportGuest(mac, ip)
			}
		}
	}
}

// silent lists the MACs of running guests whose address is not known.
func (s *Server) silent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, host := range s.hosts {
		for _, vm := range s.db.refs(host, "resident_VMs") {
			for _, vif := range s.db.refs(vm, "VIFs") {
				gm := s.guest(vm)
				if gm == nil || gm.dict("networks")[vif.str("device")+"/ip"] != nil {
					continue
				}
				out = append(out, normalMAC(vif.str("MAC")))
			}
		}
	}
	return out
}

// powerQueue hands the power changes to Config.OnPower in their order, outside of the lock.
type powerQueue struct {
	f    func(Power)
	mu   sync.Mutex
	list []Power
	wake chan struct{}
}

func (q *powerQueue) init(f func(Power)) { q.f, q.wake = f, make(chan struct{}, 1) }

func (q *powerQueue) add(p Power) {
	if q.f == nil {
		return
	}
	q.mu.Lock()
	q.list = append(q.list, p)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *powerQueue) run(ctx context.Context) {
	if q.f == nil {
		return
	}
	for {
		q.mu.Lock()
		list := q.list
		q.list = nil
		q.mu.Unlock()
		for _, p := range list {
			q.f(p)
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}
