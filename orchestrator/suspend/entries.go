package suspend

import (
	"slipway/orchestrator"
	"slipway/orchestrator/install"
)

// BlockTraffic lets nothing through to or from the machine; the applier cuts its connections.
func BlockTraffic(d orchestrator.Desired) act {
	return install.EnsureEntry(d, orchestrator.Firewall, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.Firewall, s.Machine.BlockedEntry()
	})
}

// OpenTraffic gives the machine its own rules back.
func OpenTraffic(d orchestrator.Desired) act {
	return install.EnsureEntry(d, orchestrator.Firewall, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.Firewall, s.Machine.OpenEntry(s.Machine.Firewall)
	})
}

// RestoreConsole gives the machine its console back, at its port and with its password.
func RestoreConsole(d orchestrator.Desired) act {
	return install.EnsureEntry(d, orchestrator.Console, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.Console, s.Machine.ConsoleEntry(s.Machine.ConsolePassword)
	})
}
