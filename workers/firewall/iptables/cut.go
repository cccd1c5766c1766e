package iptables

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

var _ agent.Cutter = (*Unit)(nil)

// Cuts implements agent.Cutter by comparing two states of the rules file.
func (u *Unit) Cuts(from, to map[string][]byte) ([]netip.Addr, error) {
	return Cuts(string(from[RulesFile]), string(to[RulesFile]))
}

// Cuts lists the machines' addresses whose connections end when the rules file goes from one state to another, in their order: those that
// are new, gone, or another machine's, and those for which less is open than before. A machine for which only more is open keeps its
// connections. Where only its rules differ, the private address is enough: each connection to its public one has both. "" is a firewall without a file. A file of before that is none of ours counts as "".
func Cuts(from, to string) ([]netip.Addr, error) {
	old := newRuleset()
	if from != "" {
		if parsed, err := parseRules(from); err == nil {
			old = parsed
		}
	}
	next, err := parseRules(to)
	if err != nil {
		return nil, err
	}
	return cuts(old, next), nil
}

func cuts(from, to ruleset) []netip.Addr {
	old, next := holdings(from), holdings(to)
	cut := map[netip.Addr]bool{}
	only := map[netip.Addr][]netip.Addr{} // addresses that lost nothing but what let these sources in
	for a := range union(old, next) {
		lost, all := lostSources(old[a], next[a])
		switch {
		case all:
			cut[a] = true
		case len(lost) > 0:
			only[a] = lost
		}
	}
	// A rule that let in one machine goes with that machine, whose own connections are cut: nothing else came by it. Of two that let in each
	// other, and lost only that, both are cut.
	for a, lost := range only {
		if slices.ContainsFunc(lost, func(s netip.Addr) bool { _, also := only[s]; return !cut[s] || also }) {
			cut[a] = true
		}
	}
	list := make([]netip.Addr, 0, len(cut))
	for a := range cut {
		list = append(list, a)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// holding is what a ruleset has about one address of a machine: each rule by its place and meaning.
type holding map[string]held

type held struct {
	opens  bool       // it lets something in, and takes nothing from what others let in
	source netip.Addr // the one address that it lets in; zero for more
}

// lostSources compares: all is true when the address has lost more than rules that let in single addresses, or has won one that does not
// let in.
func lostSources(old, next holding) (lost []netip.Addr, all bool) {
	for key, h := range old {
		if _, stays := next[key]; stays {
			continue
		}
		if !h.opens || !h.source.IsValid() {
			return nil, true
		}
		lost = append(lost, h.source)
	}
	for key, h := range next {
		if _, was := old[key]; !was && !h.opens {
			return nil, true
		}
	}
	return lost, false
}

// holdings gathers, by address, the rules that are a machine's: those outside of the machines' chains that name one address and either lead
// into a machine's chain, translate, or carry a comment; and the rules of the chains that they lead to. Rules about ranges and about
// foreign addresses are none.
func holdings(rules ruleset) map[netip.Addr]holding {
	found := map[netip.Addr]holding{}
	for _, name := range tableNames {
		t := rules[name]
		for chain, list := range t.chains {
			if strings.HasPrefix(chain, machinePrefix) {
				continue
			}
			for _, r := range list {
				d := describe(r.canon)
				if !d.machines {
					continue
				}
				for _, a := range d.addresses {
					h := found[a]
					if h == nil {
						h = holding{}
						found[a] = h
					}
					h[name+" "+chain+" "+r.canon] = held{}
					for _, inner := range t.chains[d.target] {
						i := describe(inner.canon)
						h[name+" "+d.target+" "+inner.canon] = held{opens: i.target == "ACCEPT", source: i.source}
					}
				}
			}
		}
	}
	return found
}

// description is what matters of a rule in its canonical form.
type description struct {
	addresses []netip.Addr // single ones that it is about, as source, destination or translation
	source    netip.Addr   // the single one that it is restricted to as a source
	target    string
	machines  bool
}

func describe(canon string) description {
	var d description
	fields := strings.Fields(canon)
	for i := 0; i+1 < len(fields); i++ {
		negated := i > 0 && fields[i-1] == "!"
		value := fields[i+1]
		switch fields[i] {
		case "-j", "-g":
			d.target = value
			d.machines = d.machines || strings.HasPrefix(value, machinePrefix)
		case "--comment":
			d.machines = true
		case "-s", "-d":
			p, err := netip.ParsePrefix(value)
			if err != nil || !p.IsSingleIP() || negated {
				continue
			}
			d.addresses = append(d.addresses, p.Addr())
			if fields[i] == "-s" {
				d.source = p.Addr()
			}
		case "--to-source", "--to-destination":
			if a, err := netip.ParseAddr(value); err == nil {
				d.addresses = append(d.addresses, a)
			}
			d.machines = true
		}
	}
	return d
}

func union(a, b map[netip.Addr]holding) map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(a)+len(b))
	for _, m := range []map[netip.Addr]holding{a, b} {
		for addr := range m {
			all[addr] = true
		}
	}
	return all
}

// cutAll ends the connections of addresses. Deleting walks the whole table each time, so it is asked first which of them have any: a
// firewall that was away for long has many addresses to cut, and few connections.
func (u *Unit) cutAll(ctx context.Context, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	present, err := u.connected(ctx, addrs)
	if err != nil {
		return orchestrator.Errorf("iptables.Cut", orchestrator.Transient, "list connections: %w", err)
	}
	for _, a := range present {
		if err := u.cut(ctx, a.String()); err != nil {
			return err
		}
	}
	return nil
}

// connected lists those of the addresses that are part of a connection, before or after translation.
func (u *Unit) connected(ctx context.Context, addrs []netip.Addr) ([]netip.Addr, error) {
	wanted := make(map[string]netip.Addr, len(addrs))
	for _, a := range addrs {
		wanted[a.String()] = a
	}
	ctx, cancel := context.WithTimeoutCause(ctx, toolTimeout, fmt.Errorf("%s took longer than %s", u.cfg.Conntrack, toolTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, u.cfg.Conntrack, "-L", "-f", "ipv4")
	cmd.Env = environment()
	cmd.WaitDelay = 5 * time.Second
	var complaint strings.Builder
	cmd.Stderr = &complaint
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var found []netip.Addr
	lines := bufio.NewScanner(output) // a table of a million connections is 150 MB of text, a line at a time
	for lines.Scan() {
		for word := range strings.FieldsSeq(lines.Text()) {
			side, text, _ := strings.Cut(word, "=")
			if side != "src" && side != "dst" {
				continue
			}
			if a, ok := wanted[text]; ok {
				found = append(found, a)
				delete(wanted, text)
			}
		}
	}
	scanErr := lines.Err()
	if scanErr != nil {
		cancel() // nobody reads on
	}
	if err := cmd.Wait(); err != nil && scanErr == nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &toolError{program: u.cfg.Conntrack, stderr: printable(complaint.String()), err: err}
	}
	return found, scanErr
}

// cut ends every connection that an address is part of, before or after translation, so that what was let in by the old rules is judged
// by the new ones. conntrack's failure for nothing to delete is a success here.
func (u *Unit) cut(ctx context.Context, address string) error {
	for _, where := range []string{"--orig-src", "--orig-dst", "--reply-src", "--reply-dst"} {
		_, err := run(ctx, "", u.cfg.Conntrack, "-D", "-f", "ipv4", where, address)
		var failed *toolError
		if errors.As(err, &failed) && strings.Contains(failed.stderr, ": 0 flow entries have been deleted") {
			continue
		}
		if err != nil {
			return orchestrator.Errorf("iptables.Cut", orchestrator.Transient, "connections of %s: %w", address, err)
		}
	}
	return nil
}
