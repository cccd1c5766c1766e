// Package iptables keeps the machines' filter and NAT rules on a Linux firewall, through iptables-restore and either of its backends.
//
// The controller calls [Render], which turns a group's entries into one file; the agent on the firewall drives a [Unit], which makes that
// file live. Both agree on names: every chain of ours begins with SLIPWAY-, a chain named after a built-in one (SLIPWAY-FORWARD) is
// jumped to from it, and nothing else on the firewall is ours: built-in policies and foreign chains and rules are never written.
//
// # What is live
//
// The unit reads iptables-save, compares it with the file and sends iptables-restore only the chains that differ, the chains of removed
// machines (emptied, then deleted) and the jumps that are missing, doubled or not first. Each table changes in one step or not at all:
// first the NAT rules that go, then the filter, then the NAT rules that come, so that no machine is ever translated without its filter.
//
// # The revert timer
//
// Before it touches a rule the unit writes down the old state and starts a watcher, a process of its own session ([Unit.Watch]) that
// outlives the agent. Unless [Unit.Prove] disarms it within UnitConfig.RevertAfter the watcher puts the old rules back. A firewall that
// loses power in between comes up with the old rules too: [Unit.Boot] takes the file only when the last change was proven.
package iptables
