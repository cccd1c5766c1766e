package service

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/appliance"
	"slipway/workers/console/xvp"
	"slipway/workers/dhcp/isc"
	"slipway/workers/firewall/iptables"
)

// renderer chooses how a group's entries become files.
func renderer(cfg *config.Config, g config.Group, templates fs.FS, vault orchestrator.Vault) (appliance.Renderer, error) {
	switch orchestrator.Unit(g.Unit) {
	case orchestrator.DHCP:
		return renderDHCP(templates, prefixes(cfg, func(p config.Pool) ([]string, []config.Subnet) { return p.DHCP, []config.Subnet{p.Private} }, g.ID)), nil
	case orchestrator.Firewall:
		fw := iptables.Config{InsideInterfaces: g.Inside}
		fw.Private = prefixes(cfg, func(p config.Pool) ([]string, []config.Subnet) { return p.Firewall, []config.Subnet{p.Private} }, g.ID)
		fw.Public = prefixes(cfg, func(p config.Pool) ([]string, []config.Subnet) { return p.Firewall, []config.Subnet{p.Public} }, g.ID)
		for _, f := range g.Foreign {
			fw.Foreign = append(fw.Foreign, netip.Prefix(f))
		}
		fw.ARP = delivery(cfg, g)
		if err := fw.Validate(); err != nil {
			return nil, fmt.Errorf("groups.%s: %w", g.ID, err)
		}
		return renderFirewall(templates, fw), nil
	case orchestrator.Console:
		pools, err := consolePools(cfg, g)
		if err != nil {
			return nil, fmt.Errorf("groups.%s.accounts: %w", g.ID, err)
		}
		return renderConsole(templates, xvp.Config{Pools: pools}, vault), nil
	default:
		return nil, fmt.Errorf("groups.%s.unit: %q is unknown", g.ID, g.Unit)
	}
}

// prefixes gathers the networks of the pools that use a group, each once.
func prefixes(cfg *config.Config, of func(config.Pool) ([]string, []config.Subnet), group string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range cfg.Pools {
		groups, subnets := of(p)
		if !slices.Contains(groups, group) {
			continue
		}
		for _, s := range subnets {
			if prefix := netip.Prefix(s.Prefix); prefix.IsValid() && !slices.Contains(out, prefix) {
				out = append(out, prefix)
			}
		}
	}
	return out
}

// delivery is what a firewall group answers ARP for, nil when nothing of it is delivered so.
func delivery(cfg *config.Config, g config.Group) *iptables.Delivery {
	var d *iptables.Delivery
	for _, p := range cfg.Pools {
		if !slices.Contains(p.Firewall, g.ID) || orchestrator.Delivery(p.Public.Delivery) != orchestrator.DeliveryARP {
			continue
		}
		if d == nil {
			d = &iptables.Delivery{Members: len(g.Members)}
		}
		for _, r := range p.Public.Ranges {
			d.Ranges = append(d.Ranges, orchestrator.AddressRange(r))
		}
	}
	return d
}

func consolePools(cfg *config.Config, g config.Group) ([]xvp.PoolConfig, error) {
	var pools []xvp.PoolConfig
	for _, p := range cfg.Pools {
		account, ok := g.Accounts[p.ID]
		if !ok {
			continue
		}
		password, err := account.Password.Read()
		if err != nil {
			return nil, fmt.Errorf("%s.password: %w", p.ID, err)
		}
		pool := xvp.PoolConfig{ID: p.ID, Name: "slipway-" + p.ID, Manager: account.User, Password: password}
		for _, h := range account.Hosts {
			first, name, two := strings.Cut(h, " ")
			if !two {
				pool.Hosts = append(pool.Hosts, xvp.HostConfig{Name: first})
				continue
			}
			addr, err := netip.ParseAddr(first)
			if err != nil {
				return nil, fmt.Errorf("%s.hosts: %q is not \"NAME\" or \"ADDRESS NAME\"", p.ID, h)
			}
			pool.Hosts = append(pool.Hosts, xvp.HostConfig{Address: addr, Name: name})
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// decode reads the entries of one unit; one that does not decode is that machine's fault.
func decode[T any](texts []appliance.Text) (entries []T, bad map[string]string) {
	bad = map[string]string{}
	for _, t := range texts {
		var e T
		if err := json.Unmarshal(t.Body, &e); err != nil {
			bad[t.Machine] = "the stored entry does not decode: " + err.Error()
			continue
		}
		entries = append(entries, e)
	}
	return entries, bad
}

func renderDHCP(templates fs.FS, subnets []netip.Prefix) appliance.Renderer {
	return func(texts []appliance.Text) (appliance.Rendering, map[string]string, error) {
		hosts, bad := decode[orchestrator.DHCPHost](texts)
		if len(bad) > 0 {
			return appliance.Rendering{}, bad, nil
		}
		files, lines, err := isc.Render(templates, hosts, subnets)
		for _, refused := range isc.HostErrors(err) {
			for _, machine := range refused.Machines {
				bad[machine] = refused.Problem
			}
		}
		if len(bad) > 0 {
			return appliance.Rendering{}, bad, nil
		}
		return appliance.Rendering{Files: files, Owner: func(_ string, line int) string { m, _ := lines.Machine(line); return m }}, nil, err
	}
}

func renderFirewall(templates fs.FS, cfg iptables.Config) appliance.Renderer {
	return func(texts []appliance.Text) (appliance.Rendering, map[string]string, error) {
		entries, bad := decode[orchestrator.FirewallEntry](texts)
		if len(bad) > 0 {
			return appliance.Rendering{}, bad, nil
		}
		files, lines, err := iptables.Render(templates, cfg, entries)
		for _, refused := range entryErrors(err) {
			bad[refused.Machine] = refused.Field + ": " + refused.Problem
			if refused.Other != "" {
				bad[refused.Other] = refused.Field + ": " + refused.Problem
			}
		}
		if len(bad) > 0 {
			return appliance.Rendering{}, bad, nil
		}
		owner := func(file string, line int) string {
			if file == iptables.AnnounceFile {
				return iptables.AnnouncedMachine(files[len(files)-1].Content, line)
			}
			return lines.Machine(line)
		}
		return appliance.Rendering{Files: files, Owner: owner}, nil, err
	}
}

// entryErrors finds every EntryError in a tree of wrapped and joined errors.
func entryErrors(err error) []*iptables.EntryError {
	switch e := err.(type) {
	case nil:
		return nil
	case *iptables.EntryError:
		return []*iptables.EntryError{e}
	case interface{ Unwrap() []error }:
		var all []*iptables.EntryError
		for _, one := range e.Unwrap() {
			all = append(all, entryErrors(one)...)
		}
		return all
	default:
		return entryErrors(errors.Unwrap(err))
	}
}

// renderConsole opens the sealed passwords on the way: the store never holds xvp's obfuscation of them. What is the gateways' is left out.
func renderConsole(templates fs.FS, cfg xvp.Config, vault orchestrator.Vault) appliance.Renderer {
	return func(texts []appliance.Text) (appliance.Rendering, map[string]string, error) {
		texts = slices.DeleteFunc(slices.Clone(texts), func(t appliance.Text) bool { return t.Backend == orchestrator.ConsoleGateway })
		entries, bad := decode[orchestrator.ConsoleEntry](texts)
		for i, e := range entries {
			hex, err := consolePassword(vault, e)
			if err != nil {
				bad[e.Machine] = err.Error()
			}
			entries[i].Password = hex
		}
		if len(bad) > 0 {
			return appliance.Rendering{}, bad, nil
		}
		files, lines, err := xvp.Render(templates, cfg, entries)
		var refused *xvp.EntryError
		if errors.As(err, &refused) {
			return appliance.Rendering{}, map[string]string{refused.Machine: refused.Err.Error()}, nil
		}
		return appliance.Rendering{Files: files, Owner: func(_ string, line int) string { return lines[line] }}, nil, err
	}
}

func consolePassword(vault orchestrator.Vault, e orchestrator.ConsoleEntry) (string, error) {
	sealed, err := base64.StdEncoding.DecodeString(e.Password)
	if err != nil {
		return "", errors.New("the stored password is not base64")
	}
	password, err := vault.Open(e.Machine, orchestrator.SealedConsole, sealed)
	if err != nil {
		return "", err
	}
	return xvp.EncryptVNC(password)
}

// firewallCuts is what a firewall's agent will cut. A state that is none cuts nothing: it is refused.
func firewallCuts(from, to map[string]string) []netip.Addr {
	cut, err := iptables.Cuts(from[iptables.RulesFile], to[iptables.RulesFile])
	if err != nil {
		return nil
	}
	return cut
}
