package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/orchestrator/importing"
)

// postImport looks at the VM, says what was found, what does not fit and what will be done, and starts the run when the operator said yes.
// The run looks at all of it again.
func (s *Service) postImport(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.Import
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not an import: " + err.Error(), Fix: "see slipway import --help"}}
	}
	pool, ok := s.Estate.PoolByID(ask.Pool)
	if !ok {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no pool %q", ask.Pool), Next: "slipway pool"}
	}
	order := orchestrator.Order{Source: "operator", ID: "-", Type: orchestrator.OrderImport, Tenant: ask.Tenant, Name: ask.Name, Hostname: ask.Hostname, Image: ask.Image,
		Pool: pool.ID, Firewall: ask.Firewall, Import: orchestrator.Import{VM: strings.ToLower(ask.VM), Private: ask.Private, Public: ask.Public}}
	if err := order.Validate(); err != nil {
		return nil, err
	}
	if len(ask.Firewall) == 0 && !ask.Closed {
		return nil, orchestrator.FieldErrors{{Field: "allow", Problem: "is missing, and the firewall would drop everything that comes to the machine", Fix: "say who may come in, such as --allow tcp/22,443, or --closed for nobody"}}
	}
	vm, err := s.Xapi.FindStranger(ctx, pool.ID, order.Import.VM)
	if errors.Is(err, orchestrator.ErrNotFound) {
		return nil, &api.Error{Code: api.CodeNotFound, Message: api.Words(err.Error()), Next: "slipway pool scan " + pool.ID}
	}
	if err != nil {
		return nil, err
	}
	if len(vm.VIFs) > 0 {
		order.Import.MAC = vm.VIFs[0].MAC
	}
	sightings, err := s.Store.Sightings(ctx)
	if err != nil {
		return nil, err
	}
	guessAddresses(&order.Import, pool, vm, sightings)
	if err := order.Import.Fits(pool, vm, ""); err != nil {
		return nil, err
	}
	placement, err := s.claimable(ctx, pool, order.Import, vm)
	if err != nil {
		return nil, err
	}
	answer := api.Imported{Found: foundOf(order.Import, vm, sightings), Plan: importPlan(order, placement, vm)}
	if !ask.Yes {
		return answer, nil
	}
	if strings.TrimSpace(ask.Reason) == "" {
		return nil, orchestrator.FieldErrors{{Field: "reason", Problem: "is missing", Fix: "say why with --reason; it goes into the record"}}
	}
	accepted, err := s.Intake.Import(ctx, order, importing.PlanOf(vm), actor(ctx))
	if err != nil {
		return nil, err
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), "import", accepted.Machine, ask.Reason); err != nil {
		s.log.Warn("the reason of an import is not recorded", "machine", accepted.Machine, "error", err)
	}
	answer.Done, answer.Machine, answer.Run = true, accepted.Machine, accepted.Run
	return answer, nil
}

// claimable tries the claim on the ledger of now, which nothing keeps.
func (s *Service) claimable(ctx context.Context, pool orchestrator.Pool, i orchestrator.Import, vm orchestrator.Stranger) (orchestrator.Placement, error) {
	ledger, err := s.Store.Ledger(ctx)
	if err != nil {
		return orchestrator.Placement{}, err
	}
	placement, err := ledger.Claim(pool, i, vm.Host, vm.Disks[0].SR)
	if err != nil {
		return placement, &api.Error{Code: api.CodeConflict, Message: err.Error(), Next: "slipway ip"}
	}
	return placement, nil
}

// guessAddresses fills in what can be only one: an address of the VM in the pool's private network, or that of the host block with its MAC;
// and the public address that a rule was seen to translate to it.
func guessAddresses(i *orchestrator.Import, pool orchestrator.Pool, vm orchestrator.Stranger, sightings []orchestrator.Sighting) {
	if !i.Private.IsValid() && len(vm.VIFs) == 1 {
		var known []netip.Addr
		for _, a := range vm.Addresses(vm.VIFs[0]) {
			if pool.Private.Prefix.Contains(a) {
				known = append(known, a)
			}
		}
		if len(known) == 0 {
			known = hostAddresses(i.MAC, sightings)
		}
		if len(known) == 1 {
			i.Private = known[0]
		}
	}
	if i.Public.IsValid() || pool.Strategy == orchestrator.Routed || !i.Private.IsValid() {
		return
	}
	var partners []netip.Addr
	for _, s := range sightings {
		a, err := netip.ParseAddr(s.Peer)
		if err == nil && s.Kind == orchestrator.SightedAddress && s.Value == i.Private.String() && pool.Public.Prefix.Contains(a) && !slices.Contains(partners, a) {
			partners = append(partners, a)
		}
	}
	if len(partners) == 1 {
		i.Public = partners[0]
	}
}

// hostAddresses are those of the objects that were seen with a MAC: of a host block.
func hostAddresses(mac string, sightings []orchestrator.Sighting) (found []netip.Addr) {
	for _, m := range sightings {
		if m.Kind != orchestrator.SightedMAC || m.Value != mac {
			continue
		}
		for _, s := range sightings {
			a, err := netip.ParseAddr(s.Value)
			if err == nil && s.Kind == orchestrator.SightedAddress && s.Source == m.Source && s.Object == m.Object && !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	return found
}

// foundOf tells what the VM is, and where scans have met what it has.
func foundOf(i orchestrator.Import, vm orchestrator.Stranger, sightings []orchestrator.Sighting) []string {
	plan := importing.PlanOf(vm)
	lines := []string{fmt.Sprintf("VM %s (%s) runs with %d MiB, %d vCPUs, %d disks of %d GiB, MAC %s", vm.UUID, vm.Name, plan.MemoryMiB, plan.VCPUs, len(vm.Disks), plan.DiskGiB, i.MAC)}
	seen := map[string]bool{}
	for _, s := range sightings {
		has := s.Value == i.MAC || s.Value == i.Private.String() || i.Public.IsValid() && s.Value == i.Public.String()
		if line := fmt.Sprintf("%s: %s (%s)", s.Source, s.Object, s.Place); has && !strings.HasPrefix(s.Source, "pool ") && !seen[line] {
			seen[line] = true
			lines = append(lines, line+" is the site's and stays; take it away by hand when the machine is finished")
		}
	}
	return lines
}

func importPlan(order orchestrator.Order, p orchestrator.Placement, vm orchestrator.Stranger) []string {
	pair := p.Private.String()
	if p.Public.IsValid() {
		pair += " and " + p.Public.String()
	}
	lines := []string{
		fmt.Sprintf("make VM %s machine %s/%s, with %s, MAC %s and a console port; what of these is foreign becomes its own", vm.UUID, order.Tenant, order.Name, pair, p.MAC),
		"put the machine's tag on the VM and its disks; nothing else of it changes, and it goes on running",
	}
	if p.DHCP != "" {
		lines = append(lines, "give it a host block on "+p.DHCP)
	}
	return append(lines, fmt.Sprintf("let in on %s what its %d rules say, and nothing new besides", p.Firewall, len(order.Firewall)),
		fmt.Sprintf("open its console on %s; a cancel takes all of it back and leaves the VM as it is", p.Console))
}
