package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// AnnounceFile is the name of the second file in a request for a firewall that answers ARP for public addresses: a line
//
//	members N
//
// with how many firewalls get this same file, then a line `ADDRESS MACHINE` for each address. Comments begin with #.
const AnnounceFile = "announce.v4"

// Delivery is how a firewall's upstream finds the public addresses, where it does not route them: by ARP, for those in Ranges.
type Delivery struct {
	Ranges []orchestrator.AddressRange
	// Members is how many firewalls carry this state. Of several, each must know by itself whether it is the active one.
	Members int
}

func (d Delivery) has(a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(d.Ranges, func(r orchestrator.AddressRange) bool { return r.Contains(a) })
}

// AnnounceConfig is what one firewall must know to answer ARP for public addresses.
type AnnounceConfig struct {
	// Interface is the one towards the upstream: gratuitous ARP leaves there, with its hardware address. Replies are the kernel's own.
	Interface string `yaml:"interface"`
	// ActiveWhen is an address that only the active one of several firewalls has (VRRP's): nothing is announced by one that does not
	// have it. The zero Addr is for a firewall that is alone.
	ActiveWhen netip.Addr `yaml:"active_when"`
	// File is the absolute path of the announce file; "" is AnnounceFile beside the rules.
	File string `yaml:"file"`
}

func (c *AnnounceConfig) validate() (errs []error) {
	if !interfaceName.MatchString(c.Interface) || strings.HasSuffix(c.Interface, "+") {
		errs = append(errs, fmt.Errorf("announce.interface: %q is no interface name; name the one towards the upstream", c.Interface))
	}
	if c.ActiveWhen.IsValid() && !c.ActiveWhen.Is4() {
		errs = append(errs, fmt.Errorf("announce.active_when: %s is not IPv4, the only family served", c.ActiveWhen))
	}
	if !filepath.IsAbs(c.File) || filepath.Clean(c.File) != c.File {
		errs = append(errs, fmt.Errorf("announce.file: %q is not a clean absolute path", c.File))
	}
	return errs
}

// announcement is one line of the file.
type announcement struct {
	Address netip.Addr
	Machine string
	line    int
}

// announcements is the whole file.
type announcements struct {
	members int
	lines   []announcement // in the order of their addresses
}

// renderAnnouncements writes the file for the machines whose public address is delivered by ARP.
func renderAnnouncements(d Delivery, machines []machine) string {
	var b strings.Builder
	b.WriteString("# Written by slipway: addresses that this firewall answers ARP for; what is changed here by hand is replaced.\n")
	fmt.Fprintf(&b, "members %d\n", d.Members)
	announced := slices.DeleteFunc(slices.Clone(machines), func(m machine) bool { return !d.has(m.Public) })
	slices.SortFunc(announced, func(x, y machine) int { return x.Public.Compare(y.Public) })
	for _, m := range announced {
		fmt.Fprintf(&b, "%s %s\n", m.Public, m.ID)
	}
	return b.String()
}

// AnnouncedMachine is the machine that a line (from 1) of the file is about, "" for any other line.
func AnnouncedMachine(text string, line int) string {
	number := 0
	for l := range strings.Lines(text) {
		if number++; number == line {
			if words := strings.Fields(l); len(words) == 2 && machineID.MatchString(words[1]) && words[0] != "members" && words[0] != "#" {
				return words[1]
			}
			return ""
		}
	}
	return ""
}

// parseAnnouncements is the gate for what a controller sends. A refusal is a *LineError.
func parseAnnouncements(text string) (announcements, error) {
	var a announcements
	seen := map[netip.Addr]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSuffix(line, "\n")
		refuse := func(format string, args ...any) (announcements, error) {
			return announcements{}, &LineError{Line: number, Problem: fmt.Sprintf(format, args...)}
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		first, second, _ := strings.Cut(line, " ")
		if a.members == 0 {
			n, err := strconv.Atoi(second)
			if first != "members" || err != nil || n < 1 || n > 1000 {
				return refuse("%.80q; the file begins with \"members N\"", line)
			}
			a.members = n
			continue
		}
		address, err := netip.ParseAddr(first)
		if err == nil {
			err = validAddress(address)
		}
		switch {
		case err != nil:
			return refuse("%.80q does not begin with an address: %v", line, err)
		case !machineID.MatchString(second):
			return refuse("%.80q does not end with a machine's id", line)
		case seen[address]:
			return refuse("%s is there twice", address)
		}
		seen[address] = true
		a.lines = append(a.lines, announcement{Address: address, Machine: second, line: number})
	}
	if a.members == 0 {
		return announcements{}, &LineError{Line: max(number, 1), Problem: "the line \"members N\" is missing"}
	}
	return a, nil
}

// checkAnnouncements judges a candidate beside its rules. What is wrong with a line is a *agent.Fault, what is wrong with this firewall
// ErrUnsupported.
func (u *Unit) checkAnnouncements(dir string, rules ruleset) error {
	const op = "iptables.Check"
	if u.cfg.Announce == nil {
		return nil
	}
	text, err := readRules(filepath.Join(dir, AnnounceFile))
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	wanted, err := parseAnnouncements(text)
	if at := (*LineError)(nil); errors.As(err, &at) {
		return &agent.Fault{File: AnnounceFile, Line: at.Line, Message: at.Problem}
	}
	if err := u.canAnnounce(wanted); err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	taken, err := others()
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	translated := rules.translated()
	for _, a := range wanted.lines {
		problem := ""
		switch owner := taken[a.Address]; {
		case !translated[a.Address]:
			problem = "the rules do not translate it: packets to it would reach this firewall itself"
		case owner != "":
			problem = fmt.Sprintf("this firewall has %s, which is not slipway's; take it away, or mark the address as foreign", owner)
		default:
			continue
		}
		return &agent.Fault{File: AnnounceFile, Line: a.line, Message: a.Address.String() + ": " + problem}
	}
	return nil
}

// canAnnounce tells whether this firewall can do it at all; the error is ErrUnsupported.
func (u *Unit) canAnnounce(wanted announcements) error {
	cfg := u.cfg.Announce
	if wanted.members > 1 && !cfg.ActiveWhen.IsValid() {
		return fmt.Errorf("%w: it is one of %d, and all of them would answer ARP; set announce.active_when to the address that only the active one has", ErrUnsupported, wanted.members)
	}
	dev, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return fmt.Errorf("%w: announce.interface: %s: %w", ErrUnsupported, cfg.Interface, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return fmt.Errorf("%w: announce.interface: %s speaks no ARP", ErrUnsupported, cfg.Interface)
	}
	for _, name := range []string{"all", cfg.Interface} { // the kernel goes by the larger one
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/arp_ignore")
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		if value := strings.TrimSpace(string(text)); value != "0" {
			return fmt.Errorf("%w: net.ipv4.conf.%s.arp_ignore is %s, and the kernel answers for addresses of the interface alone; set it to 0", ErrUnsupported, name, value)
		}
	}
	return nil
}

// filed are the addresses that the file has.
func (u *Unit) filed() (map[netip.Addr]bool, error) {
	if u.cfg.Announce == nil {
		return nil, nil
	}
	text, err := readRules(u.cfg.Announce.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	file, err := parseAnnouncements(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.cfg.Announce.File, err)
	}
	if file.members > 1 && !u.cfg.Announce.ActiveWhen.IsValid() {
		return nil, nil // said by Check; whatever lies there was not checked by this configuration
	}
	wanted := make(map[netip.Addr]bool, len(file.lines))
	for _, a := range file.lines {
		wanted[a.Address] = true
	}
	return wanted, nil
}

// announced are those that belong to these rules: an address is the kernel's own while it is announced, so one that the rules do not
// translate must not be.
func (u *Unit) announced(rules ruleset) (map[netip.Addr]bool, error) {
	wanted, err := u.filed()
	if len(wanted) == 0 {
		return nil, err
	}
	translated := rules.translated()
	maps.DeleteFunc(wanted, func(a netip.Addr, _ bool) bool { return !translated[a] })
	return wanted, nil
}

// active tells whether this firewall is the one that announces.
func (u *Unit) active() (bool, error) {
	if u.cfg.Announce == nil || !u.cfg.Announce.ActiveWhen.IsValid() {
		return true, nil
	}
	return isLocal(u.cfg.Announce.ActiveWhen)
}

// withdraw stops the announcing of every address that is not to stay.
func (u *Unit) withdraw(stay map[netip.Addr]bool) error {
	routes, err := openRoutes()
	if err != nil {
		return err
	}
	defer routes.close()
	have, err := routes.ours()
	if err != nil {
		return err
	}
	for a, source := range have {
		if !stay[a] || source != u.source() {
			if err := routes.remove(a, source); err != nil {
				return err
			}
		}
	}
	return nil
}

// source is the address without which the kernel takes our routes away.
func (u *Unit) source() netip.Addr {
	if u.cfg.Announce == nil {
		return netip.Addr{}
	}
	return u.cfg.Announce.ActiveWhen
}

// announceTries bounds how often the firewall may change its role while it is told what to announce.
const announceTries = 3

// announce makes the kernel answer for exactly the addresses that belong to these rules, or for none while another firewall is the
// active one, reads that back, and sends gratuitous ARP for those that were not announced before.
func (u *Unit) announce(ctx context.Context, rules ruleset) error {
	wanted, err := u.announced(rules)
	if err != nil {
		return err
	}
	var problem error
	for range announceTries {
		active, err := u.active()
		if err != nil {
			return err
		}
		now := wanted
		if !active {
			now = nil
		}
		if err := u.withdraw(now); err != nil {
			return err
		}
		fresh, err := u.add(now)
		if errors.Is(err, syscall.EINVAL) { // the address is gone, and what was announced with it
			problem = fmt.Errorf("announce.active_when: %s has gone meanwhile", u.source())
			continue
		}
		if err != nil {
			return err
		}
		if problem = u.unlike(wanted); problem == nil {
			u.cry(ctx, fresh)
			return nil
		}
	}
	return problem
}

// add announces what is not announced yet, and returns it in order.
func (u *Unit) add(wanted map[netip.Addr]bool) (fresh []netip.Addr, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	routes, err := openRoutes()
	if err != nil {
		return nil, err
	}
	defer routes.close()
	have, err := routes.ours()
	if err != nil {
		return nil, err
	}
	for _, a := range slices.SortedFunc(maps.Keys(wanted), netip.Addr.Compare) {
		if _, ok := have[a]; ok {
			continue
		}
		if err := routes.add(a, u.source()); err != nil {
			return nil, err
		}
		fresh = append(fresh, a)
	}
	return fresh, nil
}

// unlike says how what the kernel announces differs from what it should, given this firewall's role now; nil when it does not.
func (u *Unit) unlike(wanted map[netip.Addr]bool) error {
	routes, err := openRoutes()
	if err != nil {
		return err
	}
	defer routes.close()
	have, err := routes.ours()
	if err != nil {
		return err
	}
	active, err := u.active()
	if err != nil {
		return err
	}
	if !active && len(have) > 0 {
		return fmt.Errorf("%d addresses are announced by a firewall that is not the active one", len(have))
	}
	if !active {
		return nil
	}
	missing, extra := 0, 0
	for a := range wanted {
		if source, ok := have[a]; !ok || source != u.source() {
			missing++
		}
	}
	for a := range have {
		if !wanted[a] {
			extra++
		}
	}
	if missing+extra > 0 {
		return fmt.Errorf("ARP: %d addresses are not announced, %d are and should not be", missing, extra)
	}
	return nil
}

// translated are the addresses to which packets are sent on to somebody else.
func (r ruleset) translated() map[netip.Addr]bool {
	found := map[netip.Addr]bool{}
	for _, rules := range r["nat"].chains {
		for _, rule := range rules {
			words := strings.Fields(rule.canon)
			to := slices.Index(words, "--to-destination")
			at := slices.Index(words, "-d")
			if to < 0 || at < 0 || at+1 >= len(words) || at > 0 && words[at-1] == "!" {
				continue
			}
			if p, err := netip.ParsePrefix(words[at+1]); err == nil && p.IsSingleIP() {
				found[p.Addr()] = true
			}
		}
	}
	return found
}
