package iptables

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"text/template"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// RulesFile is the name of the one file in a firewall request.
const RulesFile = "rules.v4"

// Template is where Render looks for the text in the templates it is given.
const Template = "firewall/iptables/rules.v4.tmpl"

// LineMap says which machine a line of the rendered file is about. Index 0 is line 1.
type LineMap []string

// Machine is the id of the machine that the line (from 1) is about, "" for a line that belongs to all or does not exist.
func (m LineMap) Machine(line int) string {
	if line < 1 || line > len(m) {
		return ""
	}
	return m[line-1]
}

// Render writes the whole desired state of a firewall. Equal entries in any order give equal bytes. An entry that may not be rendered is
// an *EntryError, which EntryErrors lists; every error has kind Permanent.
func Render(templates fs.FS, cfg Config, entries []orchestrator.FirewallEntry) (files []apply.File, lines LineMap, err error) {
	const op = "iptables.Render"
	if err := cfg.Validate(); err != nil {
		return nil, nil, orchestrator.Errorf(op, orchestrator.Permanent, "configuration: %w", err)
	}
	machines, err := machinesOf(cfg, entries)
	if err != nil {
		return nil, nil, orchestrator.E(op, orchestrator.Permanent, err)
	}
	tmpl, err := template.New("rules.v4.tmpl").Option("missingkey=error").ParseFS(templates, Template)
	if err != nil {
		return nil, nil, orchestrator.E(op, orchestrator.Permanent, err)
	}
	var announced []orchestrator.AddressRange
	if cfg.ARP != nil {
		announced = cfg.ARP.Ranges
	}
	var text bytes.Buffer
	if err := tmpl.Execute(&text, data{
		Machines: machines,
		Private:  cfg.Private, Public: cfg.Public, Ranges: slices.Concat(cfg.Private, cfg.Public), Foreign: cfg.Foreign,
		Inside: cfg.InsideInterfaces, Announced: announced,
	}); err != nil {
		return nil, nil, orchestrator.E(op, orchestrator.Permanent, err)
	}
	if _, err := parseRules(text.String()); err != nil {
		return nil, nil, orchestrator.Errorf(op, orchestrator.Permanent, "template %s: %w", Template, err)
	}
	files = []apply.File{{Name: RulesFile, Content: text.String()}}
	if cfg.ARP != nil {
		files = append(files, apply.File{Name: AnnounceFile, Content: renderAnnouncements(*cfg.ARP, machines)})
	}
	return files, lineMap(text.String(), machines), nil
}

// data is what the template sees; its names are documented there.
type data struct {
	Machines                         []machine
	Private, Public, Ranges, Foreign []netip.Prefix
	Inside                           []string
	Announced                        []orchestrator.AddressRange
}

// lineMap finds the machines in the text itself, so that it is right for any template: by chain name or by comment.
func lineMap(text string, machines []machine) LineMap {
	known := make(map[string]string, 2*len(machines))
	for _, m := range machines {
		known[m.ID], known[m.Chain] = m.ID, m.ID
	}
	var lines LineMap
	for line := range strings.Lines(text) {
		id := ""
		words := strings.Fields(line)
		for i, word := range words {
			switch {
			case strings.HasPrefix(word, ":"):
				word = word[1:]
			case i == 0 || !slices.Contains([]string{"-A", "-j", "-g", "--comment"}, words[i-1]):
				continue
			}
			if found, ok := known[word]; ok {
				id = found
			}
		}
		lines = append(lines, id)
	}
	return lines
}

// LineError is a line of a rules file that is not one of ours, or not well formed.
type LineError struct {
	Line    int // from 1
	Problem string
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }
