package xapi

import (
	"context"
	"net"
	"slices"
	"strings"

	"slipway/orchestrator"
)

// keyNetwork is the other_config key by which a network can be configured instead of by its uuid.
const keyNetwork = "slipway_network"

// checkMAC does what xapi does not: it accepts multicast, broadcast and zero, and keeps the letters' case.
func checkMAC(mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 || hw.String() != mac || hw[0]&1 != 0 || mac == "00:00:00:00:00:00" {
		return orchestrator.Errorf("xapi", orchestrator.Permanent, "MAC %q is no unicast address in lower case with colons", printable(mac))
	}
	return nil
}

// network leaves the VM with one interface: ours. Those that were cloned from the template go.
func (s *shaping) network(ctx context.Context) error {
	network, rec, err := s.networkByKey(ctx, s.spec.Network)
	if err != nil {
		return err
	}
	var ours Ref
	var vif vifRecord
	for _, ref := range s.rec.VIFs {
		var have vifRecord
		if gone, err := s.read(ctx, "VIF.get_record", &have, ref); err != nil {
			return err
		} else if gone {
			continue
		}
		if ours == "" && strings.EqualFold(have.MAC, s.spec.MAC) && have.Network == network {
			ours, vif = ref, have
			continue
		}
		if err := s.client.Call(ctx, "VIF.destroy", nil, ref); err != nil && !HasCode(err, codeHandleInvalid) {
			return err
		}
	}
	if ours == "" {
		if ours, vif, err = s.createVIF(ctx, network, rec.MTU); err != nil {
			return err
		}
	}
	return s.lock(ctx, ours, vif)
}

// networkByKey finds a network by uuid, else by our other_config key.
func (p *pool) networkByKey(ctx context.Context, key string) (Ref, networkRecord, error) {
	var all records[networkRecord]
	if err := p.client.Call(ctx, "network.get_all_records", &all); err != nil {
		return "", networkRecord{}, err
	}
	var found []Ref
	for ref, rec := range all {
		if key != "" && (rec.UUID == key || rec.OtherConfig[keyNetwork] == key) {
			found = append(found, ref)
		}
	}
	if len(found) != 1 {
		return "", networkRecord{}, orchestrator.Errorf("xapi", orchestrator.Permanent,
			"pool %s has %d networks with the uuid or other_config:%s %q; one is needed", p.id, len(found), keyNetwork, printable(key))
	}
	return found[0], all[found[0]], nil
}

// createVIF makes our interface on the lowest free device. xapi would accept a MAC that another VM has, so that is looked for first.
func (s *shaping) createVIF(ctx context.Context, network Ref, mtu int64) (Ref, vifRecord, error) {
	if err := s.macFree(ctx); err != nil {
		return "", vifRecord{}, err
	}
	var devices []string
	if err := s.client.Call(ctx, "VM.get_allowed_VIF_devices", &devices, s.ref); err != nil {
		return "", vifRecord{}, err
	}
	if len(devices) == 0 {
		return "", vifRecord{}, orchestrator.Errorf("xapi", orchestrator.Permanent, "VM %s takes no further interface", s.spec.VM)
	}
	device := slices.MinFunc(devices, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	var ref Ref
	err := s.client.Call(ctx, "VIF.create", &ref, map[string]any{
		"device": device, "network": network, "VM": s.ref, "MAC": s.spec.MAC, "MTU": mtu,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	if err != nil {
		return "", vifRecord{}, err
	}
	return ref, vifRecord{Device: device}, nil
}

// macFree looks for the MAC in the pool, in the two spellings that clients use. Another VM with it is trouble on the wire.
func (s *shaping) macFree(ctx context.Context) error {
	for _, mac := range []string{s.spec.MAC, strings.ToUpper(s.spec.MAC)} {
		var taken records[vifRecord]
		if err := s.client.Call(ctx, "VIF.get_all_records_where", &taken, `field "MAC" = "`+mac+`"`); err != nil {
			return err
		}
		for _, vif := range taken {
			if vif.VM != s.ref && strings.EqualFold(vif.MAC, s.spec.MAC) {
				var uuid string
				if gone, err := s.read(ctx, "VM.get_uuid", &uuid, vif.VM); err != nil {
					return err
				} else if gone {
					continue
				}
				return orchestrator.Errorf("xapi", orchestrator.Permanent, "MAC %s is on an interface of VM %s already", s.spec.MAC, uuid)
			}
		}
	}
	return nil
}

// lock binds the interface to the machine's address, where the licence has it.
func (s *shaping) lock(ctx context.Context, ref Ref, have vifRecord) error {
	if !s.spec.Address.Is4() || !s.lockingLicensed() {
		return nil
	}
	address := s.spec.Address.String()
	if have.LockingMode == "locked" && slices.Equal(have.IPv4Allowed, []string{address}) {
		return nil
	}
	err := s.client.Call(ctx, "VIF.set_ipv4_allowed", nil, ref, []string{address})
	if err == nil {
		err = s.client.Call(ctx, "VIF.set_locking_mode", nil, ref, "locked")
	}
	if HasCode(err, codeLicenceRestriction) {
		s.log.InfoContext(ctx, "the pool's licence has no VIF locking; the firewall alone keeps machines to their addresses")
		s.mu.Lock()
		s.unlocked = true
		s.mu.Unlock()
		return nil
	}
	return err
}

func (p *pool) lockingLicensed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.unlocked
}
