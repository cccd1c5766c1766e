package api

import (
	"net/netip"

	"slipway/orchestrator"
)

// Import asks to take a foreign VM into management. Without Yes nothing is done and what would be is told.
type Import struct {
	Pool     string `json:"pool"`
	VM       string `json:"vm"` // XenAPI uuid
	Tenant   string `json:"tenant"`
	Name     string `json:"name"`
	Hostname string `json:"hostname,omitempty"`
	Image    string `json:"image,omitempty"` // what it is called in lists; nothing is installed
	// Private and Public are found when they are left out and only one can be meant.
	Private netip.Addr `json:"private,omitzero"`
	Public  netip.Addr `json:"public,omitzero"`
	// Firewall is who may come in; Closed says that nobody may.
	Firewall []orchestrator.FirewallRule `json:"firewall,omitempty"`
	Closed   bool                        `json:"closed,omitempty"`
	Reason   string                      `json:"reason"`
	Yes      bool                        `json:"yes"`
}

// Imported answers an Import.
type Imported struct {
	Found   []string `json:"found"`
	Plan    []string `json:"plan"`
	Done    bool     `json:"done"`
	Machine string   `json:"machine,omitempty"`
	Run     string   `json:"run,omitempty"`
}
