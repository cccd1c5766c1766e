package config

import (
	"fmt"
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"

	"slipway/orchestrator"
)

// Prefix, Addr and Range are addresses as the file writes them.
type (
	Prefix netip.Prefix
	Addr   netip.Addr
	Range  orchestrator.AddressRange
)

// UnmarshalText reads "10.0.0.0/24", or one address as its /32.
func (p *Prefix) UnmarshalText(text []byte) error {
	v, err := orchestrator.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is not an address range: write one such as 10.0.0.0/24", text)
	}
	*p = Prefix(v)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Prefix) MarshalText() ([]byte, error) { return netip.Prefix(p).MarshalText() }

// UnmarshalText reads "10.0.0.1".
func (a *Addr) UnmarshalText(text []byte) error {
	v, err := netip.ParseAddr(string(text))
	if err != nil {
		return fmt.Errorf("%q is not an address: write one such as 10.0.0.1", text)
	}
	*a = Addr(v)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (a Addr) MarshalText() ([]byte, error) { return netip.Addr(a).MarshalText() }

// UnmarshalText reads "10.0.0.10-10.0.0.99".
func (r *Range) UnmarshalText(text []byte) error {
	first, last, ok := strings.Cut(string(text), "-")
	a, errA := netip.ParseAddr(strings.TrimSpace(first))
	b, errB := netip.ParseAddr(strings.TrimSpace(last))
	if !ok || errA != nil || errB != nil {
		return fmt.Errorf("%q is not a range: write first-last, such as 10.0.0.10-10.0.0.99", text)
	}
	if b.Less(a) {
		return fmt.Errorf("%q ends before it begins: write first-last, such as 10.0.0.10-10.0.0.99", text)
	}
	*r = Range{First: a, Last: b}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (r Range) MarshalText() ([]byte, error) {
	return []byte(orchestrator.AddressRange(r).String()), nil
}

// Words is a list; a single word may stand without its brackets.
type Words []string

// UnmarshalYAML reads "a" or [a, b].
func (w *Words) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*w = Words{node.Value}
		return nil
	}
	return node.Decode((*[]string)(w))
}
