package iptables

import (
	"maps"
	"slices"
	"strings"
)

// plan is the text for one `iptables-restore --noflush` that makes live into want; "" when there is nothing to do. Only what differs is
// in it. The order of the tables keeps a machine from being translated without its filter: the NAT rules that go, the filter, the NAT
// rules that come.
func plan(live, want ruleset) string {
	var b strings.Builder
	nat := leaving(&b, live["nat"], want["nat"])
	change(&b, "filter", live["filter"], want["filter"])
	change(&b, "nat", nat, want["nat"])
	return b.String()
}

// leaving writes the section that takes out of live's NAT chains every rule that want does not have, and returns what stays.
func leaving(b *strings.Builder, live, want *table) *table {
	stays := &table{chains: maps.Clone(live.chains), order: live.order, jumps: live.jumps}
	var section strings.Builder
	for _, chain := range live.order {
		wanted := make(map[string]bool, len(want.chains[chain]))
		for _, r := range want.chains[chain] {
			wanted[r.canon] = true
		}
		kept := slices.DeleteFunc(slices.Clone(live.chains[chain]), func(r rule) bool { return !wanted[r.canon] })
		if len(kept) < len(live.chains[chain]) {
			section.WriteString(":" + chain + " - [0:0]\n")
			writeRules(&section, chain, kept)
			stays.chains[chain] = kept
		}
	}
	writeSection(b, "nat", section.String())
	return stays
}

// change writes the section that makes one table as wanted: declared chains are made or emptied, then filled; the jumps of built-in
// chains are set right; the chains that nobody wants are emptied, then deleted.
func change(b *strings.Builder, name string, live, want *table) {
	var declared, filled, deleted strings.Builder
	for _, chain := range want.order {
		have, exists := live.chains[chain]
		if exists && sameRules(have, want.chains[chain]) {
			continue
		}
		declared.WriteString(":" + chain + " - [0:0]\n")
		writeRules(&filled, chain, want.chains[chain])
	}
	for _, builtin := range builtins(name) {
		have, wanted := live.jumps[builtin], want.jumps[builtin]
		if sameJump(have, wanted) {
			continue
		}
		rule := builtin + " -j " + chainPrefix + builtin + "\n"
		for range have.count {
			filled.WriteString("-D " + rule)
		}
		if wanted.count > 0 {
			filled.WriteString("-I " + rule)
		}
	}
	for _, chain := range live.order {
		if _, ok := want.chains[chain]; !ok {
			declared.WriteString(":" + chain + " - [0:0]\n")
			deleted.WriteString("-X " + chain + "\n")
		}
	}
	writeSection(b, name, declared.String()+filled.String()+deleted.String())
}

func writeRules(b *strings.Builder, chain string, rules []rule) {
	for _, r := range rules {
		b.WriteString("-A " + chain + " " + r.text + "\n")
	}
}

func writeSection(b *strings.Builder, table, lines string) {
	if lines != "" {
		b.WriteString("*" + table + "\n" + lines + "COMMIT\n")
	}
}
