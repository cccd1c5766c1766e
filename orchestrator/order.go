package orchestrator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// OrderType is the CloudEvents type of an order.
type OrderType string

const (
	OrderInstall   OrderType = "slipway.order.install"
	OrderUninstall OrderType = "slipway.order.uninstall"
	// These change a finished machine.
	OrderReconfigure OrderType = "slipway.order.reconfigure"
	OrderSuspend     OrderType = "slipway.order.suspend"
	OrderUnsuspend   OrderType = "slipway.order.unsuspend"
	// OrderConsole asks for a way to a machine's screen. It is answered at once and has no run.
	OrderConsole OrderType = "slipway.order.console"
)

// OrderTypes lists every type.
func OrderTypes() []OrderType {
	return []OrderType{OrderInstall, OrderUninstall, OrderReconfigure, OrderSuspend, OrderUnsuspend, OrderConsole}
}

// Alters reports whether an order changes a finished machine.
func (t OrderType) Alters() bool {
	return t == OrderReconfigure || t == OrderSuspend || t == OrderUnsuspend
}

// Order is what a panel asks for. Source and ID together make it idempotent: the same pair is the same order, for ever.
type Order struct {
	Source string // CloudEvents source: which panel
	ID     string // CloudEvents id: the panel's own number
	Type   OrderType
	Tenant string // the customer; names are unique within one

	// Install.
	Name     string // the machine's name, unique in its tenant
	Hostname string // what the guest calls itself; Name when empty
	Image    string // key of the catalogue, e.g. "debian-12"
	Plan     Plan
	Pool     string // "" lets the placement choose
	Firewall []FirewallRule
	SSHKeys  []string // authorized_keys lines
	Deadline time.Time

	// Everything but an install: Machine is its id; Name may stand instead.
	Machine string

	// Reconfigure: Firewall, SSHKeys and Hostname as above, nil or empty for what stays. An empty Firewall that is not nil closes the machine.
	NewConsolePassword bool
	// Suspend: PowerStop when empty.
	Power PowerPolicy

	// Console: who will look, from where (zero: from anywhere), and the SHA-256 of the 32 random bytes that open the screen once. The panel
	// makes these itself, so that no message ever carries them.
	Viewer     string
	ViewerFrom netip.Addr
	TokenHash  PassHash

	// Import: the VM; Tenant, Name, Hostname, Pool and Firewall as for an install. Plan is the VM's own.
	Import Import `json:"Import,omitzero"`
}

// Plan is a machine's size.
type Plan struct {
	VCPUs     int   `json:"vcpus"`
	MemoryMiB int64 `json:"memory_mib"`
	DiskGiB   int64 `json:"disk_gib"`
}

// Limits of a plan: XenServer 8's documented maxima for one guest.
const (
	MaxVCPUs     = 64
	MinMemoryMiB = 256
	MaxMemoryMiB = 1536 * 1024
	MaxDiskGiB   = 2048
	maxRules     = 64
	maxPorts     = 15  // iptables multiport takes no more
	maxRanges    = 512 // each is a rule of its own, walked by every new connection
	maxKeys      = 32
	maxIDLength  = 200
)

// FieldError is one thing wrong with an order: where, what, and what would be right.
type FieldError struct {
	Field   string `json:"field"` // as in the message: "plan.memory_mib", "firewall[2].ports"
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

func (e FieldError) Error() string { return fmt.Sprintf("%s: %s; %s", e.Field, e.Problem, e.Fix) }

// FieldErrors is everything that is wrong with an order, so that a panel's developer sees it at once.
type FieldErrors []FieldError

func (e FieldErrors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Validate checks what can be known without looking at the estate (pools and images are checked by Estate.Check). A refusal is FieldErrors.
func (o Order) Validate() error {
	var c fieldCheck
	c.id("source", o.Source)
	c.id("id", o.ID)
	c.label("tenant", o.Tenant)
	switch o.Type {
	case OrderInstall:
		o.validateInstall(&c)
	case OrderImport:
		o.validateImport(&c)
	case OrderUninstall:
		o.validateMachine(&c)
	case OrderReconfigure, OrderSuspend, OrderUnsuspend:
		o.validateAlteration(&c)
	case OrderConsole:
		o.validateMachine(&c)
		if problem := CheckViewer(o.Viewer); problem != "" {
			c.add("viewer", problem, fmt.Sprintf("name whoever will look in 1 to %d printable characters", MaxViewer))
		}
		if o.TokenHash == (PassHash{}) {
			c.add("token_sha256", "is missing", "give the SHA-256 of 32 random bytes, as 64 hex digits")
		}
	default:
		c.add("type", fmt.Sprintf("%q is not an order", clip(string(o.Type))), "use one of "+orderTypes())
	}
	if len(c.errs) == 0 {
		return nil
	}
	return c.errs
}

func orderTypes() string {
	var words []string
	for _, t := range OrderTypes() {
		words = append(words, string(t))
	}
	return strings.Join(words, ", ")
}

// validateMachine checks how an order names the machine that it is about.
func (o Order) validateMachine(c *fieldCheck) {
	if o.Machine == "" && o.Name == "" {
		c.add("machine", "is missing", "give the machine's id, or its name")
	}
	if o.Machine != "" && !isUUID(o.Machine) {
		c.add("machine", "is not a machine id", "use the id from the accepted event")
	}
	if o.Name != "" {
		c.label("name", o.Name)
	}
}

func (o Order) validateInstall(c *fieldCheck) {
	c.label("name", o.Name)
	if o.Hostname != "" {
		c.hostname("hostname", o.Hostname)
	}
	c.label("image", strings.ReplaceAll(o.Image, ".", "-"))
	if o.Pool != "" {
		c.label("pool", o.Pool)
	}
	c.between("plan.vcpus", int64(o.Plan.VCPUs), 1, MaxVCPUs, "")
	c.between("plan.memory_mib", o.Plan.MemoryMiB, MinMemoryMiB, MaxMemoryMiB, " MiB")
	c.between("plan.disk_gib", o.Plan.DiskGiB, 1, MaxDiskGiB, " GiB")
	o.validateAccess(c)
}

// validateAccess checks who may reach the machine and log in.
func (o Order) validateAccess(c *fieldCheck) {
	if len(o.Firewall) > maxRules {
		c.add("firewall", fmt.Sprintf("has %d rules", len(o.Firewall)), fmt.Sprintf("use at most %d", maxRules))
	}
	ranges := 0
	for _, rule := range o.Firewall {
		ranges += max(1, len(rule.Ports))
	}
	if len(o.Firewall) <= maxRules && ranges > maxRanges {
		c.add("firewall", fmt.Sprintf("has %d ranges of ports in all", ranges), fmt.Sprintf("use at most %d: join ports into ranges", maxRanges))
	}
	for i, rule := range o.Firewall {
		rule.validate(c, fmt.Sprintf("firewall[%d]", i))
	}
	if len(o.SSHKeys) > maxKeys {
		c.add("ssh_keys", fmt.Sprintf("has %d keys", len(o.SSHKeys)), fmt.Sprintf("use at most %d", maxKeys))
	}
	for i, key := range o.SSHKeys {
		if strings.ContainsFunc(key, isControl) || !utf8.ValidString(key) || len(key) > 16<<10 || strings.TrimSpace(key) == "" {
			c.add(fmt.Sprintf("ssh_keys[%d]", i), "is not one authorized_keys line", "give one public key, such as ssh-ed25519 AAAA… name")
		}
	}
}

func (r FirewallRule) validate(c *fieldCheck, field string) {
	switch r.Protocol {
	case "tcp", "udp":
		if len(r.Ports) == 0 {
			c.add(field+".ports", "is missing", "name the ports, e.g. [\"443\"]")
		}
	case "icmp":
		if len(r.Ports) != 0 {
			c.add(field+".ports", "icmp has no ports", "leave it out")
		}
	default:
		c.add(field+".protocol", fmt.Sprintf("%q is not one we filter", clip(r.Protocol)), "use tcp, udp or icmp")
	}
	if len(r.Ports) > maxPorts {
		c.add(field+".ports", fmt.Sprintf("has %d ranges", len(r.Ports)), fmt.Sprintf("use at most %d", maxPorts))
	}
	for i, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			c.add(fmt.Sprintf("%s.ports[%d]", field, i), "is not a range of ports", "write 1 to 65535, or a range such as 8000-8080")
		}
	}
	switch {
	case !r.Source.IsValid():
		c.add(field+".source", "is not an address range", "write one such as 203.0.113.0/24; 0.0.0.0/0 is everybody")
	case !r.Source.Addr().Is4():
		c.add(field+".source", "is IPv6, which is not served yet", "use an IPv4 range")
	case r.Source != r.Source.Masked():
		c.add(field+".source", fmt.Sprintf("%s has bits beyond its length", r.Source), "write "+r.Source.Masked().String())
	}
}

// GuestName is what the guest calls itself.
func (o Order) GuestName() string {
	if o.Hostname != "" {
		return o.Hostname
	}
	return o.Name
}

// Differences names the fields in which two orders differ, in the message's words; empty when they are the same order.
func (o Order) Differences(other Order) []string {
	var fields []string
	add := func(name string, same bool) {
		if !same {
			fields = append(fields, name)
		}
	}
	add("type", o.Type == other.Type)
	add("tenant", o.Tenant == other.Tenant)
	add("name", o.Name == other.Name)
	add("hostname", o.GuestName() == other.GuestName())
	add("image", o.Image == other.Image)
	add("plan.vcpus", o.Plan.VCPUs == other.Plan.VCPUs)
	add("plan.memory_mib", o.Plan.MemoryMiB == other.Plan.MemoryMiB)
	add("plan.disk_gib", o.Plan.DiskGiB == other.Plan.DiskGiB)
	add("pool", o.Pool == other.Pool)
	stays := o.Type == OrderReconfigure // where a field that is not there keeps what is, and an empty one does not
	add("firewall", slices.EqualFunc(o.Firewall, other.Firewall, sameRule) && (!stays || (o.Firewall == nil) == (other.Firewall == nil)))
	add("ssh_keys", slices.Equal(o.SSHKeys, other.SSHKeys))
	add("new_console_password", o.NewConsolePassword == other.NewConsolePassword)
	add("power", o.Power == other.Power)
	add("viewer", o.Viewer == other.Viewer)
	add("from", o.ViewerFrom == other.ViewerFrom)
	add("token_sha256", o.TokenHash == other.TokenHash)
	add("deadline", o.Deadline.Equal(other.Deadline))
	add("machine", o.Machine == other.Machine)
	return fields
}

func sameRule(a, b FirewallRule) bool {
	return a.Protocol == b.Protocol && a.Source == b.Source && slices.Equal(a.Ports, b.Ports)
}

// ParsePrefix reads "203.0.113.0/24", or a single address as its /32.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
