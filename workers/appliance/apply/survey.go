package apply

import (
	"fmt"
	"net/netip"
)

// MaxSurvey bounds the things that one Survey lists, and MaxNotes what it could not understand; MaxText bounds, in bytes, each word of the
// site's own in it.
const (
	MaxSurvey = 100_000
	MaxNotes  = 100
	MaxText   = 300
)

// Survey is what an appliance has around our part of a unit, as its own files and tables say: asked for by Request.Survey. It carries names,
// addresses and places, no file and no secret.
type Survey struct {
	Files []string `json:"files,omitempty"` // that were read, ours left out

	// A DHCP server: host blocks, subnets, and ranges that are given to anybody who asks.
	Hosts   []SurveyedHost   `json:"hosts,omitempty"`
	Subnets []SurveyedSubnet `json:"subnets,omitempty"`
	Ranges  []SurveyedRange  `json:"ranges,omitempty"`
	// A firewall: the rules of chains that are not ours, those that name addresses.
	Rules []SurveyedRule `json:"rules,omitempty"`
	// A console host: what listens on a port.
	Consoles []SurveyedConsole `json:"consoles,omitempty"`

	Omitted int      `json:"omitted,omitempty"` // things beyond MaxSurvey
	Notes   []string `json:"notes,omitempty"`   // what stands there and could not be understood, with its place
}

// Place is where something stands.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1; 0 stands for the whole file
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s line %d", p.File, p.Line)
}

// SurveyedHost is a host block.
type SurveyedHost struct {
	Place
	Name      string       `json:"name"`
	MAC       string       `json:"mac,omitempty"` // "" for a host that is known by something else
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// SurveyedSubnet is a subnet declaration.
type SurveyedSubnet struct {
	Place
	Prefix netip.Prefix `json:"prefix"`
}

// SurveyedRange is a range statement.
type SurveyedRange struct {
	Place
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// SurveyedRule is a rule of somebody else's chain. Prefixes are those that it matches, To the addresses that it translates to: First to Last.
type SurveyedRule struct {
	Table    string          `json:"table"`
	Chain    string          `json:"chain"`
	Number   int             `json:"number"` // in the chain, from 1
	Text     string          `json:"text"`
	Target   string          `json:"target,omitempty"`
	Prefixes []netip.Prefix  `json:"prefixes,omitempty"`
	To       []SurveyedRange `json:"to,omitempty"` // without a Place
}

// SurveyedConsole is a port of a console host: a VM line of a pool that is not ours, or the multiplex port.
type SurveyedConsole struct {
	Place
	Port uint16 `json:"port"`
	Pool string `json:"pool,omitempty"`
	VM   string `json:"vm,omitempty"` // its name or uuid
}

// Room takes n more things in if there is room for them, and counts them otherwise.
func (s *Survey) Room(n int) bool {
	if len(s.Hosts)+len(s.Subnets)+len(s.Ranges)+len(s.Rules)+len(s.Consoles)+n > MaxSurvey {
		s.Omitted += n
		return false
	}
	return true
}

// Note adds what could not be understood, within MaxNotes.
func (s *Survey) Note(format string, args ...any) {
	switch note := fmt.Sprintf(format, args...); {
	case len(s.Notes) < MaxNotes-1:
		s.Notes = append(s.Notes, note)
	case len(s.Notes) == MaxNotes-1:
		s.Notes = append(s.Notes, "and more of the kind")
	}
}
