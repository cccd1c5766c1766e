package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"slipway/internal/config"
	"slipway/internal/scan"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/workers/appliance"
)

// checkRanges holds the ranges of the pools that use a DHCP group against what a member's dhcpd declares now. A member that does not answer
// is another try's failure: here it is only said that nothing was compared.
func checkRanges(ctx context.Context, cfg *config.Config, g config.Group, m config.Member, log *slog.Logger) (string, error) {
	ways := &carriers{cfg: cfg, log: log}
	defer ways.Close()
	c, err := ways.open(m)
	if err != nil {
		return "", skipped(err.Error())
	}
	survey, err := appliance.Survey(ctx, c, orchestrator.DHCP)
	if err != nil {
		return "", skipped(err.Error())
	}
	reserved, err := takenAddresses(ctx, cfg)
	unknown := ""
	if err != nil {
		unknown = "; the database could not be asked what is reserved"
	}
	if found := scan.Ranges(cfg.Estate(nil), g.ID, m.Name, survey, reserved); len(found) > 0 {
		return "", found
	}
	return fmt.Sprintf("%d subnets, %d dynamic ranges, %d foreign hosts%s", len(survey.Subnets), len(survey.Ranges), len(survey.Hosts), unknown), nil
}

// takenAddresses are those that the ledger gives to nobody.
func takenAddresses(ctx context.Context, cfg *config.Config) (map[netip.Addr]bool, error) {
	dsn, err := DatabaseURL(cfg)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // it was only read
	records, err := s.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	taken := map[netip.Addr]bool{}
	for _, r := range records {
		taken[r.Address] = true
	}
	return taken, nil
}
