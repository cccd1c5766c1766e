package install

import "slipway/orchestrator"

// Carry is how a finished machine comes onto its appliances, for a process that takes over what runs already: what is reserved with the
// row, and the Do that waits until the group carries it.
type Carry struct {
	When    func(*orchestrator.Step) (bool, string)
	Reserve func(*orchestrator.Step) ([]orchestrator.Change, error)
	Do      act
}

// CarryDHCP is for the machine's host block, CarryRules for its customer's rules and its NAT, CarryConsole for its console.
func CarryDHCP(d orchestrator.Desired) Carry {
	return Carry{servedByUs, reserveDHCP, awaitGroup(d, dhcpGroup)}
}
func CarryRules(d orchestrator.Desired) Carry {
	return Carry{nil, reserveCustomerRules, awaitGroup(d, firewallGroup)}
}
func CarryConsole(d orchestrator.Desired) Carry {
	return Carry{nil, reserveConsole, awaitGroup(d, consoleGroup)}
}
