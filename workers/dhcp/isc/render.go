package isc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strings"
	"text/template"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// FileName is the one file of a state.
const FileName = "hosts.conf"

// templatePath is the template below the templates' root. It sees .Count and .Hosts, over which it must range exactly once, and of each
// host .Machine, .MAC, .Address and .Hostname ("" when the machine has none), all of them safe in dhcpd's grammar.
const templatePath = "dhcp/isc/hosts.conf.tmpl"

// HostError refuses one host, or two that contradict each other. Several come joined; errors.As finds the first, HostErrors all.
type HostError struct {
	Machines []string // the rows to blame, one or two; all of the same standing
	Problem  string
}

func (e *HostError) Error() string { return strings.Join(e.Machines, " and ") + ": " + e.Problem }

// HostErrors lists what Render refused, in the order of the machines.
func HostErrors(err error) []*HostError {
	var found []*HostError
	var joined interface{ Unwrap() []error }
	var one *HostError
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			found = append(found, HostErrors(e)...)
		}
	} else if errors.As(err, &one) {
		found = append(found, one)
	}
	return found
}

// LineMap tells which machine wrote a line of the rendered file.
type LineMap struct{ blocks []block }

type block struct {
	first   int // its first line, from 1
	machine string
}

// Machine is the machine whose block holds the line, from 1; false for the head of the file and for line 0 (the tool named none).
func (m LineMap) Machine(line int) (string, bool) {
	i := sort.Search(len(m.blocks), func(i int) bool { return m.blocks[i].first > line })
	if line < 1 || i == 0 {
		return "", false
	}
	return m.blocks[i-1].machine, true
}

// Render makes the file of host blocks, in the order of the machines' ids, so that equal rows give equal bytes. It refuses, permanently
// and with a HostError for each, whatever is not strictly valid (nothing can end a statement or a string early), two hosts of one
// machine, MAC or address, and an address that no subnet can hand out. Other errors are the template's.
func Render(templates fs.FS, hosts []orchestrator.DHCPHost, subnets []netip.Prefix) ([]apply.File, LineMap, error) {
	const op = "isc.Render"
	hosts = slices.Clone(hosts)
	slices.SortStableFunc(hosts, func(a, b orchestrator.DHCPHost) int { return strings.Compare(a.Machine, b.Machine) })
	if err := check(hosts, subnets); err != nil {
		return nil, LineMap{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	text, err := fs.ReadFile(templates, templatePath)
	if err != nil {
		return nil, LineMap{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	tmpl, err := template.New(FileName).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, LineMap{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	content, lines, err := execute(tmpl, hosts)
	if err != nil {
		return nil, LineMap{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	return []apply.File{{Name: FileName, Content: content}}, lines, nil
}

// execute runs the template. A template writes as it goes, so what has been written when it asks for the next host ends the block
// before: that is how every template, the operator's own as well, gets its lines mapped.
func execute(tmpl *template.Template, hosts []orchestrator.DHCPHost) (string, LineMap, error) {
	var out strings.Builder
	var lines LineMap
	counter := &lineCounter{out: &out}
	ranged := 0
	data := struct {
		Count int
		Hosts iter.Seq[orchestrator.DHCPHost]
	}{len(hosts), func(yield func(orchestrator.DHCPHost) bool) {
		ranged++
		lines.blocks = lines.blocks[:0]
		for _, host := range hosts {
			lines.blocks = append(lines.blocks, block{first: counter.line(), machine: host.Machine})
			if !yield(host) {
				return
			}
		}
	}}
	if err := tmpl.Execute(counter, data); err != nil {
		return "", LineMap{}, err
	}
	if ranged != 1 {
		return "", LineMap{}, fmt.Errorf("template %s ranges over .Hosts %d times and must do so once", templatePath, ranged)
	}
	return out.String(), lines, nil
}

// lineCounter knows the line that the next byte goes to.
type lineCounter struct {
	out  io.Writer
	ends int
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.ends += strings.Count(string(p), "\n")
	return c.out.Write(p)
}

func (c *lineCounter) line() int { return c.ends + 1 }

// check looks at all hosts, so that one round tells everything that is wrong.
func check(hosts []orchestrator.DHCPHost, subnets []netip.Prefix) error {
	var problems []error
	machines, macs, addresses := map[string]string{}, map[string]string{}, map[netip.Addr]string{}
	for _, h := range hosts {
		if problem := checkHost(h, subnets); problem != "" {
			problems = append(problems, &HostError{Machines: []string{h.Machine}, Problem: problem})
			continue
		}
		for _, duplicate := range []struct {
			what, first string
			found       bool
		}{
			taken("machine id", machines, h.Machine, h.Machine),
			taken("mac "+h.MAC, macs, h.MAC, h.Machine),
			taken("address "+h.Address.String(), addresses, h.Address, h.Machine),
		} {
			if duplicate.found {
				problems = append(problems, &HostError{Machines: []string{duplicate.first, h.Machine}, Problem: "both have the " + duplicate.what})
			}
		}
	}
	return errors.Join(problems...)
}

func taken[K comparable](what string, owners map[K]string, key K, machine string) (d struct {
	what, first string
	found       bool
}) {
	d.what = what
	if d.first, d.found = owners[key]; !d.found {
		owners[key] = machine
	}
	return d
}

var (
	uuidForm  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// maxHostname is RFC 1035's bound on a name.
const maxHostname = 253

func checkHost(h orchestrator.DHCPHost, subnets []netip.Prefix) string {
	if !uuidForm.MatchString(h.Machine) {
		return fmt.Sprintf("machine %q: not a lower-case uuid", h.Machine)
	}
	mac, err := net.ParseMAC(h.MAC)
	switch {
	case err != nil || len(mac) != 6 || mac.String() != h.MAC:
		return fmt.Sprintf("mac %q: six pairs of lower-case hex digits with colons are needed", h.MAC)
	case mac[0]&1 != 0 || h.MAC == "00:00:00:00:00:00":
		return fmt.Sprintf("mac %s: not one interface's address", h.MAC)
	}
	if h.Hostname != "" {
		if len(h.Hostname) > maxHostname {
			return fmt.Sprintf("hostname: %d characters, at most %d are allowed", len(h.Hostname), maxHostname)
		}
		for label := range strings.SplitSeq(h.Hostname, ".") {
			if !labelForm.MatchString(label) {
				return fmt.Sprintf("hostname %q: a label is 1 to 63 letters, digits and inner hyphens", h.Hostname)
			}
		}
	}
	return checkAddress(h.Address, subnets)
}

func checkAddress(addr netip.Addr, subnets []netip.Prefix) string {
	if !addr.Is4() {
		return fmt.Sprintf("address %q: an IPv4 address is needed", addr)
	}
	for _, subnet := range subnets {
		if !subnet.Contains(addr) {
			continue
		}
		if subnet.Bits() < 31 && (addr == subnet.Masked().Addr() || addr == broadcast(subnet)) {
			return fmt.Sprintf("address %s: the network's or broadcast address of %s", addr, subnet.Masked())
		}
		return ""
	}
	return fmt.Sprintf("address %s: in none of the subnets that dhcpd serves (%s): the guest would get nothing", addr, list(subnets))
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

func list(subnets []netip.Prefix) string {
	var texts []string
	for _, s := range subnets {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, ", ")
}
