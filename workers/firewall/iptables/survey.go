package iptables

import (
	"context"
	"net/netip"
	"strings"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

var _ agent.Surveyor = (*Unit)(nil)

// Survey implements agent.Surveyor: the rules of chains that are not ours, in every table that iptables-save prints, as far as they name
// addresses. Sets (-m set) and rules that nft wrote by itself are not looked into.
func (u *Unit) Survey(ctx context.Context) (apply.Survey, error) {
	text, err := run(ctx, "", u.cfg.Save)
	if err != nil {
		return apply.Survey{}, orchestrator.E("iptables.Survey", orchestrator.Transient, err)
	}
	return surveyRules(text), nil
}

// surveyRules reads what iptables-save printed.
func surveyRules(text string) apply.Survey {
	s := apply.Survey{Files: []string{"iptables-save"}}
	table := ""
	numbers := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table, numbers = line[1:], map[string]int{}
		case strings.HasPrefix(line, "# Table `"):
			s.Note("%s", printable(line[2:]))
		case strings.HasPrefix(line, "-A "):
			chain, body, _ := strings.Cut(line[len("-A "):], " ")
			numbers[chain]++
			if strings.HasPrefix(chain, chainPrefix) || strings.HasPrefix(body, "-j "+chainPrefix) {
				continue
			}
			r := apply.SurveyedRule{Table: cut(table), Chain: cut(chain), Number: numbers[chain], Text: cut(body)}
			if r.Target = surveyRule(&r, body); len(r.Prefixes)+len(r.To) > 0 && s.Room(1) {
				s.Rules = append(s.Rules, r)
			}
		}
	}
	return s
}

// maxNamed bounds the addresses of one rule.
const maxNamed = 64

// surveyRule reads the addresses that a rule matches and translates to, and gives its target. What a rule says not to match is left out.
func surveyRule(r *apply.SurveyedRule, body string) (target string) {
	words := splitRule(body)
	for i := 0; i+1 < len(words); i++ {
		option, value := words[i], words[i+1]
		negated := i > 0 && words[i-1] == "!"
		switch option {
		case "-s", "-d", "--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst":
			if p, err := orchestrator.ParsePrefix(value); err == nil && p.Addr().Is4() && !negated && len(r.Prefixes) < maxNamed {
				r.Prefixes = append(r.Prefixes, p.Masked())
			}
		case "--src-range", "--dst-range":
			if !negated {
				addSpan(r, value)
			}
		case "--to-destination", "--to-source", "--to":
			addSpan(r, value)
		case "-j", "-g":
			target = cut(value)
		default:
			continue
		}
		i++
	}
	return target
}

// splitRule splits a rule as iptables-save writes it: words, and strings in double quotes with backslashes before quotes and backslashes.
func splitRule(body string) []string {
	var words []string
	var b strings.Builder
	inWord, inQuotes := false, false
	flush := func() {
		if inWord {
			words = append(words, b.String())
		}
		b.Reset()
		inWord = false
	}
	for i := 0; i < len(body) && len(words) < 1000; i++ {
		switch c := body[i]; {
		case c == '\\' && inQuotes && i+1 < len(body):
			i++
			b.WriteByte(body[i])
		case c == '"':
			inQuotes, inWord = !inQuotes, true
		case c == ' ' && !inQuotes:
			flush()
		default:
			inWord = true
			b.WriteByte(c)
		}
	}
	flush()
	return words
}

func cut(s string) string {
	s = printable(s)
	if len(s) > apply.MaxText {
		s = strings.ToValidUTF8(s[:apply.MaxText], "")
	}
	return s
}

// addSpan reads FIRST[-LAST][:PORTS], or a prefix, as the target extensions write them. Ports alone name no address.
func addSpan(r *apply.SurveyedRule, text string) {
	text, _, _ = strings.Cut(text, ":")
	if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
		if len(r.Prefixes) < maxNamed {
			r.Prefixes = append(r.Prefixes, p.Masked())
		}
		return
	}
	from, to, two := strings.Cut(text, "-")
	first, err := netip.ParseAddr(from)
	last := first
	if err == nil && two {
		last, err = netip.ParseAddr(to)
	}
	if err != nil || !first.Is4() || !last.Is4() || last.Less(first) || len(r.To) >= maxNamed {
		return
	}
	r.To = append(r.To, apply.SurveyedRange{First: first, Last: last})
}
