package reconfigure

import (
	"context"
	"errors"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// nameOf is the record that the machine has under one side's hostname; zero where it has none.
func nameOf(s *orchestrator.Step, of side) orchestrator.NameRecord {
	m := *s.Machine
	m.Hostname = of(s).Hostname
	record, _ := orchestrator.NameOf(s.Pool, m)
	return record
}

func changesName(s *orchestrator.Step) (bool, string) {
	if !s.Run.Alteration.ChangesHostname() {
		return false, "the hostname stays"
	}
	named := !s.Machine.DNS.IsZero() || !nameOf(s, former).IsZero() || !nameOf(s, wanted).IsZero()
	return named, "the machine has no name in the DNS, before or after"
}

func changesMonitored(s *orchestrator.Step) (bool, string) {
	if applies, why := uninstall.Monitored(s); !applies {
		return false, why
	}
	return s.Run.Alteration.ChangesHostname(), "the hostname stays"
}

// renameDNS takes the machine's name out of the DNS and puts one side's in. The machine's row never names less than what may be there: it
// is written between the two.
func renameDNS(n orchestrator.Names, of side) act {
	remove, register := uninstall.UnregisterDNS(n), install.RegisterDNS(n)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		want := nameOf(s, of)
		if !s.Machine.DNS.IsZero() && s.Machine.DNS != want {
			outcome, err := remove(ctx, s)
			if err != nil || outcome.Wait != nil {
				return outcome, err
			}
			return orchestrator.WaitFor("", time.Millisecond, "the former name is gone")
		}
		if want.IsZero() {
			return orchestrator.Finished("the machine has no name in the DNS")
		}
		if s.Machine.DNS.IsZero() {
			s.Machine.DNS = want
			if err := s.Record(ctx, "name", want.Name); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		return register(ctx, s)
	}
}

// renameBack gives the machine its former name again, which was free meanwhile. When another machine has it by now, this one is left without:
// nobody could end the run otherwise.
func renameBack(n orchestrator.Names) act {
	rename, remove := renameDNS(n, former), uninstall.UnregisterDNS(n)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		outcome, err := rename(ctx, s)
		if !errors.Is(err, orchestrator.ErrNameTaken) {
			return outcome, err
		}
		taken := err
		if outcome, err = remove(ctx, s); err != nil || outcome.Wait != nil {
			return outcome, err
		}
		return orchestrator.Finished("the machine has no name in the DNS any more: %v", taken)
	}
}

// renameMonitored tells monitoring what the machine is called on one side; on the way back the DNS still has the other's name.
func renameMonitored(m orchestrator.Monitoring, of side) act {
	register := install.RegisterMonitoring(m)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		named := *s
		m := *s.Machine
		m.Hostname, m.DNS = of(s).Hostname, nameOf(s, of)
		named.Machine = &m
		return register(ctx, &named)
	}
}
