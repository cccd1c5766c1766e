// Package audit counts what exists in the world against what the store says should: VMs and disks read over XenAPI, host blocks, rules
// and console lines read from the appliances' own files. It shares no code with what puts them there.
package audit

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"slipway/orchestrator"
	"slipway/workers/hypervisor/xapi"
)

// tagMachine is the other_config key under which a VM names its machine. A clone that nobody has shaped has no tag and is a template still;
// cloned is its name.
const tagMachine = "slipway_machine"

var cloned = regexp.MustCompile(`^slipway-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-.+-[0-9]+$`)

// owner is the machine that a VM is of, by its tag or by its clone's name, "" for none.
func owner(tag, name string) string {
	if m := cloned.FindStringSubmatch(name); tag == "" && m != nil {
		return m[1]
	}
	return tag
}

// World is what was read.
type World struct {
	VMs      []VM
	Disks    []Disk
	Hosts    []HostBlock
	Rules    []Rule
	Consoles []Console
}

// VM is a virtual machine of a pool (templates that are no clones of ours, snapshots and control domains are left out).
type VM struct {
	Pool, UUID, Name string
	Machine          string // from the tag, or the name of a clone that was never shaped
	Power            string
	MACs             []string // in the order of the devices
	Disks            int
}

// Disk is a VDI that no VM and no template uses.
type Disk struct{ Pool, UUID, Name string }

// HostBlock is a dhcpd host declaration.
type HostBlock struct {
	Name, MAC string
	Address   netip.Addr
}

// Rule is one line of an iptables-restore file.
type Rule struct {
	Chain, Comment, Text string
}

// Console is a VM line of xvp.conf.
type Console struct {
	Port int
	VM   string
}

// Report is what does not agree, a line each.
type Report struct{ Leaked, Duplicated []string }

// Clean reports whether everything agrees.
func (r Report) Clean() bool { return len(r.Leaked) == 0 && len(r.Duplicated) == 0 }

// ReadPool reads a pool's VMs and loose disks.
func (w *World) ReadPool(ctx context.Context, pool string, client *xapi.Client) error {
	type vmRecord struct {
		UUID        string            `json:"uuid"`
		Name        string            `json:"name_label"`
		Template    bool              `json:"is_a_template"`
		Snapshot    bool              `json:"is_a_snapshot"`
		Control     bool              `json:"is_control_domain"`
		Power       string            `json:"power_state"`
		OtherConfig map[string]string `json:"other_config"`
		VIFs        []string          `json:"VIFs"`
		VBDs        []string          `json:"VBDs"`
	}
	var vms map[string]vmRecord
	var vifs map[string]struct {
		MAC    string `json:"MAC"`
		Device string `json:"device"`
	}
	var vdis map[string]struct {
		UUID string   `json:"uuid"`
		Name string   `json:"name_label"`
		VBDs []string `json:"VBDs"`
		Type string   `json:"type"`
		ISO  string   `json:"location"`
		SR   string   `json:"SR"`
	}
	var srs map[string]struct {
		Content string `json:"content_type"`
	}
	for method, into := range map[string]any{"VM": &vms, "VIF": &vifs, "VDI": &vdis, "SR": &srs} {
		if err := client.Call(ctx, method+".get_all_records", into); err != nil {
			return fmt.Errorf("pool %s: %w", pool, err)
		}
	}
	for _, vm := range vms {
		machine := owner(vm.OtherConfig[tagMachine], vm.Name)
		if vm.Snapshot || vm.Control || vm.Template && machine == "" {
			continue
		}
		out := VM{Pool: pool, UUID: vm.UUID, Name: vm.Name, Machine: machine, Power: vm.Power}
		slices.SortFunc(vm.VIFs, func(a, b string) int { return strings.Compare(vifs[a].Device, vifs[b].Device) })
		for _, ref := range vm.VIFs {
			out.MACs = append(out.MACs, strings.ToLower(vifs[ref].MAC))
		}
		w.VMs = append(w.VMs, out)
	}
	for _, vdi := range vdis {
		if len(vdi.VBDs) == 0 && srs[vdi.SR].Content != "iso" {
			w.Disks = append(w.Disks, Disk{Pool: pool, UUID: vdi.UUID, Name: vdi.Name})
		}
	}
	slices.SortFunc(w.VMs, func(a, b VM) int { return strings.Compare(a.Pool+a.UUID, b.Pool+b.UUID) })
	return nil
}

var hostBlock = regexp.MustCompile(`(?s)host\s+(\S+)\s*\{(.*?)\}`)

// ReadHosts reads a dhcpd file.
func (w *World) ReadHosts(text string) {
	field := func(body, key string) string {
		for line := range strings.SplitSeq(body, ";") {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	for _, m := range hostBlock.FindAllStringSubmatch(text, -1) {
		addr, _ := netip.ParseAddr(field(m[2], "fixed-address")) // the zero Addr belongs to nobody and is counted
		w.Hosts = append(w.Hosts, HostBlock{Name: m[1], MAC: strings.ToLower(field(m[2], "hardware ethernet")), Address: addr})
	}
}

var (
	ruleLine = regexp.MustCompile(`^-A (\S+) (.*)$`)
	comment  = regexp.MustCompile(`--comment "?([^" ]+)"?`)
)

// ReadRules reads an iptables-restore file, or iptables-save's output.
func (w *World) ReadRules(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		m := ruleLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		r := Rule{Chain: m[1], Text: m[0]}
		if c := comment.FindStringSubmatch(m[2]); c != nil {
			r.Comment = c[1]
		}
		w.Rules = append(w.Rules, r)
	}
}

var consoleLine = regexp.MustCompile(`(?m)^\s*VM\s+(\d+)\s+(\S+)\s+\S+\s*$`)

// ReadConsoles reads an xvp.conf.
func (w *World) ReadConsoles(text string) {
	for _, m := range consoleLine.FindAllStringSubmatch(text, -1) {
		port, _ := strconv.Atoi(m[1]) // digits
		w.Consoles = append(w.Consoles, Console{Port: port, VM: strings.Trim(m[2], `"`)})
	}
}

// Compare counts. A thing without an owner that is there is leaked; the second of a thing of which an owner has one is duplicated; a
// thing that should be there and is not is neither, and shows as a machine that is not ready.
func (w *World) Compare(machines []orchestrator.Machine) Report {
	c := counter{owners: map[string]orchestrator.Machine{}, byVM: map[string]orchestrator.Machine{}, seen: map[string]bool{}}
	for _, m := range machines {
		if m.Presence == orchestrator.Absent {
			continue
		}
		c.owners[m.ID] = m
		if m.VM != "" {
			c.byVM[m.VM] = m
		}
	}
	c.vms(w.VMs)
	for _, d := range w.Disks {
		c.leak("pool %s: disk %s (%s) belongs to no VM", d.Pool, d.UUID, d.Name)
	}
	c.hosts(w.Hosts)
	c.rules(w.Rules)
	c.consoles(w.Consoles)
	return c.Report
}

type counter struct {
	Report
	owners, byVM map[string]orchestrator.Machine
	seen         map[string]bool
}

func (c *counter) leak(format string, args ...any) {
	c.Leaked = append(c.Leaked, fmt.Sprintf(format, args...))
}

// once reports the second of anything.
func (c *counter) once(key, format string, args ...any) {
	if c.seen[key] {
		c.Duplicated = append(c.Duplicated, fmt.Sprintf(format, args...))
	}
	c.seen[key] = true
}

func (c *counter) vms(vms []VM) {
	for _, vm := range vms {
		m, ok := c.owners[vm.Machine]
		if !ok {
			c.leak("pool %s: VM %s (%s) belongs to no machine", vm.Pool, vm.UUID, vm.Name)
			continue
		}
		c.once("vm "+m.ID, "pool %s: VM %s is a second one of machine %s", vm.Pool, vm.UUID, m.ID)
		for i, mac := range vm.MACs {
			c.once("mac "+mac, "pool %s: MAC %s is there twice", vm.Pool, mac)
			if i > 0 {
				c.Duplicated = append(c.Duplicated, fmt.Sprintf("pool %s: VM %s has a second interface %s", vm.Pool, vm.UUID, mac))
			} else if mac != m.Placement.MAC {
				c.leak("pool %s: VM %s has MAC %s, which was not given to machine %s", vm.Pool, vm.UUID, mac, m.ID)
			}
		}
	}
}

func (c *counter) hosts(hosts []HostBlock) {
	for _, h := range hosts {
		m, ok := c.owners[h.Name]
		if !ok || h.MAC != m.Placement.MAC || h.Address != m.Placement.Private {
			c.leak("dhcp: host block %s (%s, %s) belongs to no machine", h.Name, h.MAC, h.Address)
			continue
		}
		c.once("host "+m.ID, "dhcp: machine %s has a second host block", m.ID)
	}
}

// machineChain is the prefix of the chains that hold one machine's rules.
const machineChain = "SLIPWAY-M-"

func (c *counter) rules(rules []Rule) {
	chains := map[string]orchestrator.Machine{} // by chain, from the dispatching rules
	for _, r := range rules {
		if r.Comment == "" {
			c.nobodys(r)
			continue
		}
		m, ok := c.owners[r.Comment]
		if !ok {
			c.leak("firewall: a rule belongs to no machine: %s", r.Text)
			continue
		}
		if i := strings.Index(r.Text, "-j "+machineChain); i >= 0 {
			chains[strings.Fields(r.Text[i:])[1]] = m
		}
		if a, ok := ruleAddress(r.Text); !ok || a != m.Placement.Private && a != m.Placement.Public {
			c.leak("firewall: a rule gives machine %s an address that is not its own: %s", m.ID, r.Text)
			continue
		}
		if to := translated.FindStringSubmatch(r.Text); to != nil && to[1] != m.Placement.Private.String() && to[1] != m.Placement.Public.String() {
			c.leak("firewall: a rule translates machine %s to an address that is not its own: %s", m.ID, r.Text)
			continue
		}
		c.once("rule "+r.Chain+" "+m.ID, "firewall: machine %s has a second rule in %s: %s", m.ID, r.Chain, r.Text)
	}
	for _, r := range rules {
		if !strings.HasPrefix(r.Chain, machineChain) {
			continue
		}
		m, ok := chains[r.Chain]
		switch {
		case !ok:
			c.leak("firewall: a rule stands in a chain of no machine: %s", r.Text)
		case strings.HasSuffix(r.Text, "-j ACCEPT") && !ordered(m, r.Text):
			c.leak("firewall: machine %s has a rule that nobody ordered: %s", m.ID, r.Text)
		default:
			c.once("line "+r.Text, "firewall: a rule of machine %s is there twice: %s", m.ID, r.Text)
		}
	}
}

// nobodys is a rule that names no machine. Those of the frame are about networks, or let what is not ours pass untouched; one that lets a
// single address in, or translates one, is a machine's without saying whose.
func (c *counter) nobodys(r Rule) {
	perMachine := slices.Contains([]string{"SLIPWAY-TO", "SLIPWAY-DNAT", "SLIPWAY-SNAT"}, r.Chain)
	single := singleAddress.MatchString(r.Text)
	if strings.HasPrefix(r.Chain, "SLIPWAY-") && !strings.HasPrefix(r.Chain, machineChain) && single && (perMachine || strings.HasSuffix(r.Text, "-j ACCEPT")) {
		c.leak("firewall: a rule belongs to no machine: %s", r.Text)
	}
}

var (
	singleAddress = regexp.MustCompile(`-[sd] [0-9.]+(/32)?( |$)`)
	translated    = regexp.MustCompile(`--to-(?:destination|source) (\S+)`)
	matchSource   = regexp.MustCompile(`-s (\S+)`)
	matchAddress  = regexp.MustCompile(`-[sd] (\S+)`)
	matchProtocol = regexp.MustCompile(`-p (\S+)`)
	matchPort     = regexp.MustCompile(`--dport (\d+)(?::(\d+))?`)
)

func ruleAddress(text string) (netip.Addr, bool) {
	m := matchAddress.FindStringSubmatch(text)
	if m == nil {
		return netip.Addr{}, false
	}
	p, err := orchestrator.ParsePrefix(m[1])
	return p.Addr(), err == nil
}

// ordered reports whether the customer's order has this accepting rule.
func ordered(m orchestrator.Machine, text string) bool {
	protocol := matchProtocol.FindStringSubmatch(text)
	if protocol == nil {
		return false
	}
	var first, last uint64
	if port := matchPort.FindStringSubmatch(text); port != nil {
		first, _ = strconv.ParseUint(port[1], 10, 16)
		if last = first; port[2] != "" {
			last, _ = strconv.ParseUint(port[2], 10, 16)
		}
	}
	source := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if from := matchSource.FindStringSubmatch(text); from != nil {
		source, _ = orchestrator.ParsePrefix(from[1]) // the zero Prefix was ordered by nobody
	}
	return slices.ContainsFunc(m.Firewall, func(r orchestrator.FirewallRule) bool {
		if r.Protocol != protocol[1] || r.Source != source {
			return false
		}
		return len(r.Ports) == 0 && first == 0 || slices.ContainsFunc(r.Ports, func(p orchestrator.PortRange) bool {
			return uint64(p.First) == first && uint64(p.Last) == last
		})
	})
}

func (c *counter) consoles(consoles []Console) {
	for _, line := range consoles {
		m, ok := c.byVM[line.VM]
		if !ok || int(m.Placement.ConsolePort) != line.Port {
			c.leak("console: port %d for VM %s belongs to no machine", line.Port, line.VM)
			continue
		}
		if m.Suspension.Power != "" {
			c.leak("console: machine %s is suspended and has port %d", m.ID, line.Port)
		}
		c.once("console "+m.ID, "console: machine %s has a second line", m.ID)
	}
}
