package iptables

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// chainPrefix marks what is ours. Longest chain name that both backends take: 28 bytes.
const (
	chainPrefix   = "SLIPWAY-"
	machinePrefix = chainPrefix + "M-"
	maxChain      = 28
)

// tableNames are the tables we have chains in.
var tableNames = [...]string{"filter", "nat"}

// builtins are the chains from which ours may be jumped to, by table.
func builtins(table string) []string {
	if table == "filter" {
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	}
	return []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
}

// ruleset is our part of a firewall: what a rules file wants, or what iptables-save shows.
type ruleset map[string]*table // by table name; always has every tableNames

type table struct {
	chains map[string][]rule
	order  []string        // of the chains, as they were declared
	jumps  map[string]jump // by built-in chain
}

// rule is one -A line of a chain of ours.
type rule struct {
	text  string // without "-A CHAIN "
	canon string // equal for rules that mean the same
}

// jump is how a built-in chain leads to ours of the same name.
type jump struct {
	count int
	first bool
}

// jumpLine is a rule that leads to a chain of ours.
type jumpLine struct {
	target string
	line   int
}

func newRuleset() ruleset {
	r := make(ruleset, len(tableNames))
	for _, name := range tableNames {
		r[name] = &table{chains: map[string][]rule{}, jumps: map[string]jump{}}
	}
	return r
}

func (t *table) declare(chain string) {
	if _, ok := t.chains[chain]; !ok {
		t.order = append(t.order, chain)
	}
	t.chains[chain] = nil
}

var chainName = regexp.MustCompile(`^SLIPWAY-[A-Za-z0-9-]+$`)

// parseRules reads a rules file. It is the gate for what a controller sends, and stricter than iptables-restore: the two tables, chains
// of ours, the options of [canonical] and our chains or the usual verdicts as targets. A refusal is a *LineError. Every chain named
// after a built-in one is to be jumped to.
func parseRules(text string) (ruleset, error) {
	rules := newRuleset()
	seen := map[string]bool{}
	var current *table
	var tableName string
	number := 0
	var jumps []jumpLine // in this table
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSuffix(line, "\n")
		refuse := func(format string, args ...any) (ruleset, error) {
			return nil, &LineError{Line: number, Problem: fmt.Sprintf(format, args...)}
		}
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "*"):
			tableName = line[1:]
			if current != nil {
				return refuse("table %q begins before COMMIT", tableName)
			}
			if rules[tableName] == nil || seen[tableName] {
				return refuse("table %q; filter and nat, once each", tableName)
			}
			current, seen[tableName] = rules[tableName], true
			jumps = nil
		case current == nil:
			return refuse("%.80q is outside of a table", line)
		case strings.HasPrefix(line, ":"):
			name, ok := strings.CutSuffix(line[1:], " - [0:0]")
			if !ok || !chainName.MatchString(name) || len(name) > maxChain {
				return refuse("%.80q declares no chain of ours; write \":SLIPWAY-NAME - [0:0]\", at most %d letters, digits and -", line, maxChain)
			}
			if _, twice := current.chains[name]; twice {
				return refuse("chain %s is declared twice", name)
			}
			current.declare(name)
			if builtin := name[len(chainPrefix):]; slices.Contains(builtins(tableName), builtin) {
				current.jumps[builtin] = jump{count: 1, first: true}
			}
		case strings.HasPrefix(line, "-A "):
			name, body, _ := strings.Cut(line[len("-A "):], " ")
			if _, ok := current.chains[name]; !ok {
				return refuse("chain %.40q is not declared above", name)
			}
			canon, target, err := canonical(body)
			if err != nil {
				return refuse("%v", err)
			}
			if strings.HasPrefix(target, chainPrefix) {
				jumps = append(jumps, jumpLine{target, number})
			}
			current.chains[name] = append(current.chains[name], rule{text: body, canon: canon})
		case line == "COMMIT":
			for _, j := range jumps { // nft would tell at the restore only
				if _, ok := current.chains[j.target]; !ok {
					return nil, &LineError{Line: j.line, Problem: fmt.Sprintf("chain %s is not declared in this table", j.target)}
				}
			}
			current = nil
		default:
			return refuse("%.80q is neither a chain, a rule of ours, nor COMMIT", line)
		}
	}
	if current != nil {
		return nil, &LineError{Line: number, Problem: "the last table has no COMMIT"}
	}
	for _, name := range tableNames {
		if !seen[name] {
			return nil, &LineError{Line: max(number, 1), Problem: "table " + name + " is missing"}
		}
	}
	return rules, nil
}

// parseSave picks our part out of what iptables-save printed. What others wrote there is skipped, whatever it looks like.
func parseSave(text string) ruleset {
	rules := newRuleset()
	var current *table
	var ruleAt map[string]int // rules seen so far, by built-in chain
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "*"):
			current, ruleAt = rules[line[1:]], map[string]int{}
		case current == nil:
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); strings.HasPrefix(name, chainPrefix) {
				current.declare(name)
			}
		case strings.HasPrefix(line, "-A "):
			name, body, _ := strings.Cut(line[len("-A "):], " ")
			if _, ours := current.chains[name]; ours {
				canon, _, err := canonical(body)
				if err != nil {
					canon = body // somebody's own: it differs from whatever we want
				}
				current.chains[name] = append(current.chains[name], rule{text: body, canon: canon})
				continue
			}
			if body == "-j "+chainPrefix+name {
				j := current.jumps[name]
				current.jumps[name] = jump{count: j.count + 1, first: j.first || ruleAt[name] == 0}
			}
			ruleAt[name]++
		}
	}
	return rules
}

// differences tells where live is not want, at most a few lines; none when they mean the same.
func differences(live, want ruleset) []string {
	const most = 5
	var found []string
	for _, name := range tableNames {
		l, w := live[name], want[name]
		for _, chain := range w.order {
			if have, ok := l.chains[chain]; !ok {
				found = append(found, fmt.Sprintf("%s: chain %s is missing", name, chain))
			} else if !sameRules(have, w.chains[chain]) {
				found = append(found, fmt.Sprintf("%s: chain %s has other rules (%d, want %d)", name, chain, len(have), len(w.chains[chain])))
			}
		}
		for _, chain := range l.order {
			if _, ok := w.chains[chain]; !ok {
				found = append(found, fmt.Sprintf("%s: chain %s should be gone", name, chain))
			}
		}
		for _, builtin := range builtins(name) {
			if have, wanted := l.jumps[builtin], w.jumps[builtin]; !sameJump(have, wanted) {
				found = append(found, fmt.Sprintf("%s: %s jumps to ours %d times, first: %t; want %d", name, builtin, have.count, have.first, min(wanted.count, 1)))
			}
		}
	}
	if len(found) > most {
		found = append(found[:most], fmt.Sprintf("and %d more", len(found)-most))
	}
	return found
}

// sameJump is true when have needs no change to be one jump in the first place, or none.
func sameJump(have, wanted jump) bool {
	if wanted.count == 0 {
		return have.count == 0
	}
	return have.count == 1 && have.first
}

func sameRules(a, b []rule) bool {
	return slices.EqualFunc(a, b, func(x, y rule) bool { return x.canon == y.canon })
}
