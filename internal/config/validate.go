package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/ipam"
)

// maxLease bounds how long the runs of a worker that died stand still.
const maxLease = time.Hour

// leastBoot bounds what is said in the wrong unit: whoever waits for less parks every run.
const leastBoot = 10 * time.Second

// name is fit for a group or member: it goes into leases, keys, file names and lists, where a space would end it.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

const nameFix = "use 1 to 63 letters, digits, dots, dashes and underscores"

// Validate checks what can be known without touching anything. A refusal is orchestrator.FieldErrors.
func (c *Config) Validate() error {
	var errs orchestrator.FieldErrors
	add := func(field, problem, fix string) {
		errs = append(errs, orchestrator.FieldError{Field: field, Problem: problem, Fix: fix})
	}
	c.validateDatabase(add)
	c.Console.validate(add)
	c.Guard.validate(add)
	for _, secret := range []struct {
		field string
		where Secret
		fix   string
	}{
		{"vault_key", c.VaultKey, "name the file with 64 hex digits, such as `openssl rand -hex 32` prints"},
		{"login_key", c.LoginKey, "name the private SSH key that the templates let in"},
	} {
		if secret.where.IsZero() {
			add(secret.field, "is missing", secret.fix)
		}
	}
	for _, n := range []struct {
		field string
		value int
	}{{"workers", c.Workers}, {"queue.prefetch", c.Queue.Prefetch}} {
		if n.value < 1 || n.value > 10000 {
			add(n.field, fmt.Sprintf("%d is out of range", n.value), "use 1 to 10000")
		}
	}
	if c.TenantRuns < 1 {
		add("tenant_runs", fmt.Sprintf("%d is out of range", c.TenantRuns), "use 1 or more; 500 when left out")
	}
	for _, p := range c.Pools {
		if c.Workers >= 1 && (p.InFlight < 0 || p.InFlight > c.Workers) { // without a number of workers there is nothing to hold it against
			add("pools."+p.ID+".in_flight", fmt.Sprintf("%d is out of range", p.InFlight), fmt.Sprintf("use 1 to %d, which is workers", c.Workers))
		}
	}
	if c.WinRM.InsecureHTTP && c.WinRM.Basic {
		add("winrm.basic", "would show the templates' passwords to the network, for insecure_http leaves TLS out", "choose one of them, or better neither")
	}
	if c.BootTimeout < leastBoot {
		add("boot_timeout", fmt.Sprintf("%s is shorter than any guest boots", c.BootTimeout), "use 30m, or what your slowest image needs, and at least 10s")
	}
	if c.Quarantine < time.Second {
		add("quarantine", fmt.Sprintf("%s is too short to keep anything from its last owner's traffic", c.Quarantine), "use 24h, and at least 1s")
	}
	if c.Audit.Every >= 0 && c.Audit.Every < time.Minute {
		add("audit.every", fmt.Sprintf("%s is too often: an audit reads everything there is", c.Audit.Every), "use 15m, at least 1m, or -1s for never")
	}
	if len(c.Notify.Command) > 0 && c.Notify.Command[0] == "" {
		add("notify.command", "names no program", "write [PROGRAM, ARGUMENT], or leave it out")
	}
	if c.Notify.Webhook != "" {
		// The address often is a secret itself and is not repeated.
		if u, err := url.Parse(c.Notify.Webhook); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			add("notify.webhook", "is not a URL", "write one such as https://alerts.example.net/slipway")
		} else if u.Scheme == "http" && !c.Notify.Insecure && !isLoopback(u.Host) {
			add("notify.webhook", "is not encrypted", "use https, or say notify.insecure: true")
		}
	}
	c.Monitoring.validate(add)
	switch c.Queue.Kind {
	case "embedded":
	case "amqp":
		u, err := url.Parse(c.Queue.URL)
		switch {
		case err != nil || u.Scheme != "amqp" && u.Scheme != "amqps":
			add("queue.url", "is not an AMQP URL", "write amqps://USER@HOST/VHOST")
		case hasPassword(u):
			add("queue.url", "holds a password", "move it to queue.password")
		case !c.Queue.Insecure && !PrivateBroker(c.Queue.URL):
			add("queue.url", "is not encrypted, and the password and customers' orders would be seen", "write amqps://, or say queue.insecure: true")
		}
	default:
		add("queue.kind", fmt.Sprintf("%q is unknown", clip(c.Queue.Kind)), "use embedded or amqp")
	}
	switch {
	case c.Lease < time.Second:
		add("lease", fmt.Sprintf("%s is too short to be kept", c.Lease), "use 1m, and at least 1s")
	case c.Lease > maxLease:
		add("lease", fmt.Sprintf("%s is how long the runs of a dead worker would stand still", c.Lease), "use 1m, and at most 1h")
	}
	if c.Listen != "" {
		if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
			add("listen", fmt.Sprintf("%q is not HOST:PORT", clip(c.Listen)), "write one such as 127.0.0.1:9180")
		}
	}
	groups := map[string]Group{}
	for i, g := range c.Groups {
		field := fmt.Sprintf("groups[%d]", i)
		switch {
		case g.ID == "":
			add(field+".id", "is missing", "name the group")
		case !name.MatchString(g.ID):
			add(field+".id", fmt.Sprintf("%q is not a name", clip(g.ID)), nameFix)
		default:
			field = "groups." + g.ID
		}
		if _, twice := groups[g.ID]; twice {
			add(field, "is there twice", "give each group a name of its own")
		}
		groups[g.ID] = g
		g.validate(field, add)
		c.validateQueueMembers(g, field, add)
	}
	services := c.validateIPAM(add)
	for _, p := range c.Pools {
		field := "pools." + p.ID
		p.validate(field, !c.WinRM.InsecureHTTP, add)
		if p.IPAM != "" && !services[p.IPAM] {
			add(field+".ipam", fmt.Sprintf("%q is not described", clip(p.IPAM)), "describe it under ipam")
		}
		for unit, ids := range map[orchestrator.Unit][]string{orchestrator.DHCP: p.DHCP, orchestrator.Firewall: p.Firewall, orchestrator.Console: p.Console} {
			for _, id := range ids {
				g, ok := groups[id]
				switch {
				case !ok:
					add(fmt.Sprintf("%s.%s", field, unit), fmt.Sprintf("group %q is not described", clip(id)), "describe it under groups")
				case g.Unit != string(unit):
					add(fmt.Sprintf("%s.%s", field, unit), fmt.Sprintf("group %s is a %s group", id, g.Unit), "name a group of unit "+string(unit))
				case unit == orchestrator.Console:
					p.validateConsole(g, add)
				}
			}
		}
	}
	var images []string
	for _, p := range c.Pools {
		for image := range p.Images {
			images = append(images, image)
		}
	}
	var estateErrs orchestrator.FieldErrors
	if err := c.Estate(images).Validate(); errors.As(err, &estateErrs) {
		errs = append(errs, estateErrs...)
	}
	if len(errs) == 0 {
		return nil
	}
	slices.SortStableFunc(errs, func(a, b orchestrator.FieldError) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

// validateDatabase never repeats the text: it may hold a password.
func (c *Config) validateDatabase(add func(field, problem, fix string)) {
	const fix = "write sqlite:PATH or postgres://USER@HOST/NAME"
	if path, ok := strings.CutPrefix(c.Database, "sqlite:"); ok {
		if path == "" {
			add("database", "names no file", fix)
		}
		return
	}
	u, err := url.Parse(c.Database)
	switch {
	case err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql":
		add("database", "is not a database that we know", fix)
	case hasPassword(u) || u.Query().Has("password"):
		add("database", "holds a password", "move it to database_password")
	}
}

// validateIPAM returns the services that there are.
func (c *Config) validateIPAM(add func(field, problem, fix string)) map[string]bool {
	seen := map[string]bool{}
	for i, s := range c.IPAM {
		field := fmt.Sprintf("ipam[%d]", i)
		switch {
		case !name.MatchString(s.ID):
			add(field+".id", fmt.Sprintf("%q is not a name", clip(s.ID)), nameFix)
		case seen[s.ID]:
			add(field+".id", fmt.Sprintf("%q is there twice", clip(s.ID)), "give each service a name of its own")
		}
		seen[s.ID] = true
		if _, err := ipam.ParseURL(s.URL); err != nil {
			add(field+".url", err.Error(), "write one such as https://ipam.example.net")
		}
		if s.Token.IsZero() {
			add(field+".token", "is missing", "say where the service's token is")
		}
	}
	return seen
}

func (p Pool) validate(field string, secure bool, add func(field, problem, fix string)) {
	p.DNS.validate(field+".dns", add)
	if len(p.XenAPI.Addresses) == 0 {
		add(field+".xenapi.addresses", "is missing", "name at least one member, such as https://xen1.example.net")
	}
	for i, a := range p.XenAPI.Addresses {
		u, err := url.Parse(a)
		at := fmt.Sprintf("%s.xenapi.addresses[%d]", field, i)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			add(at, fmt.Sprintf("%q is not a URL", clip(a)), "write one such as https://xen1.example.net")
		case u.User != nil:
			add(at, "holds a user", "move it to xenapi.user and xenapi.password")
		case u.Scheme == "http" && !p.XenAPI.Insecure:
			add(at, "is not encrypted", "use https, or say insecure: true")
		}
	}
	if p.XenAPI.User == "" {
		add(field+".xenapi.user", "is missing", "name the account")
	}
	if p.XenAPI.Password.IsZero() {
		add(field+".xenapi.password", "is missing", "say where the account's password is")
	}
	for _, pin := range p.XenAPI.PinSHA256 {
		if !isSHA256(pin) {
			add(field+".xenapi.pin_sha256", "is not a SHA-256", "give 64 hex digits for each member: openssl x509 -fingerprint -sha256")
		}
	}
	if p.Network == "" {
		add(field+".network", "is missing", "give the uuid of the XenAPI network that machines are on")
	}
	if p.Private.Delivery != "" {
		add(field+".private.delivery", "has no meaning: it says how public addresses get to the firewall", "move it to "+field+".public")
	}
	if len(p.Images) == 0 {
		add(field+".images", "is empty", "name the images this pool has templates for")
	}
	for key, image := range p.Images {
		image.validate(field+".images."+key, secure, add)
	}
}

func (i Image) validate(field string, secure bool, add func(field, problem, fix string)) {
	switch {
	case i.HostKey != "" && i.WinRM != nil:
		add(field, "has host_key and winrm", "leave host_key for an image that is reached over SSH, winrm for a Windows one")
	case i.WinRM != nil:
		if i.WinRM.Password.IsZero() {
			add(field+".winrm.password", "is missing", "say where the password of the template's installer account is")
		}
		if len(i.WinRM.PinSHA256) == 0 && secure {
			add(field+".winrm.pin_sha256", "is missing", "give the SHA-256 of the template's WinRM certificate: first contact is pinned to it")
		}
		for _, pin := range i.WinRM.PinSHA256 {
			if !isSHA256(pin) {
				add(field+".winrm.pin_sha256", "is not a SHA-256", "give 64 hex digits: openssl s_client -connect TEMPLATE:5986 </dev/null | openssl x509 -noout -fingerprint -sha256")
			}
		}
	case i.HostKey == "":
		add(field+".host_key", "is missing", "give the template's public SSH host key: first contact is pinned to it; a Windows image has winrm instead")
	case !isPublicKey(i.HostKey):
		add(field+".host_key", "is not a public SSH key", "give the line of the template's /etc/ssh/ssh_host_ed25519_key.pub")
	}
}

func (g Group) validate(field string, add func(field, problem, fix string)) {
	if !slices.Contains(orchestrator.Units(), orchestrator.Unit(g.Unit)) {
		add(field+".unit", fmt.Sprintf("%q is unknown", clip(g.Unit)), "use dhcp, firewall or console")
	}
	if len(g.Members) == 0 {
		add(field+".members", "is empty", "name at least one appliance")
	}
	if g.Capacity < 0 {
		add(field+".capacity", "is negative", "leave it out for no bound")
	}
	if g.Interval < 0 {
		add(field+".interval", "is negative", "use 1.5s, or leave it out")
	}
	if g.MinApplied < 1 || g.MinApplied > len(g.Members) {
		add(field+".min_applied", fmt.Sprintf("%d is out of range", g.MinApplied), fmt.Sprintf("use 1 to %d", len(g.Members)))
	}
	for pool, account := range g.Accounts {
		at := field + ".accounts." + pool
		if account.User == "" {
			add(at+".user", "is missing", "name xvp's account at the pool")
		}
		if account.Password.IsZero() {
			add(at+".password", "is missing", "say where the account's password is")
		}
	}
	seen := map[string]bool{}
	for i, m := range g.Members {
		at := fmt.Sprintf("%s.members[%d]", field, i)
		switch {
		case m.Name == "":
			add(at+".name", "is missing", "name the appliance")
		case !name.MatchString(m.Name):
			add(at+".name", fmt.Sprintf("%q is not a name", clip(m.Name)), nameFix)
		}
		if seen[m.Name] {
			add(at+".name", fmt.Sprintf("%q is there twice", clip(m.Name)), "give each member a name of its own")
		}
		seen[m.Name] = true
		ways := 0
		for _, way := range []bool{m.Local != nil, m.SSH != nil, m.Queue != nil, m.Gateway} {
			if way {
				ways++
			}
		}
		if ways != 1 {
			add(at, "must be reached in exactly one way", "give it local:, ssh: or queue:, or for a console group gateway: true")
		}
		if m.Gateway && (g.Unit != string(orchestrator.Console) || g.gateway() != &g.Members[i]) {
			add(at+".gateway", "is for one member of a console group", "leave it out: it stands for all gateways together")
		}
		if m.SSH != nil && m.SSH.Key.IsZero() {
			add(at+".ssh.key", "is missing", "name the private key that the appliance's forced command belongs to")
		}
		if m.SSH != nil && !arePublicKeys(m.SSH.HostKey) {
			add(at+".ssh.host_key", "is not a public SSH key", "pin the appliance's: the line of its /etc/ssh/ssh_host_ed25519_key.pub")
		}
		if m.SSH != nil {
			if _, _, err := net.SplitHostPort(m.SSH.Address); err != nil {
				add(at+".ssh.address", fmt.Sprintf("%q is not HOST:PORT", clip(m.SSH.Address)), "write one such as dhcp1.example.net:22")
			}
			if m.SSH.User == "" {
				add(at+".ssh.user", "is missing", "name the account that the agent runs under")
			}
		}
	}
}

func isPublicKey(line string) bool {
	_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	return err == nil && len(rest) == 0
}

// arePublicKeys takes several, a line each: an appliance's old and new one while it is exchanged.
func arePublicKeys(lines string) bool {
	keys := strings.Split(strings.TrimSpace(lines), "\n")
	return !slices.ContainsFunc(keys, func(line string) bool { return !isPublicKey(line) })
}

func isSHA256(s string) bool {
	sum, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	return err == nil && len(sum) == 32
}

func hasPassword(u *url.URL) bool {
	if u.User == nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

func knownKeys(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return nil
	}
	seen[t] = true
	var keys []string
	for f := range t.Fields() {
		if key := strings.Split(f.Tag.Get("yaml"), ",")[0]; key != "" {
			keys = append(keys, key)
			keys = append(keys, knownKeys(f.Type, seen)...)
		}
	}
	return keys
}

// Nearest is the word with the smallest edit distance.
func Nearest(word string, words []string) string {
	best, distance := "", -1
	for _, w := range words {
		if d := editDistance(word, w); distance < 0 || d < distance {
			best, distance = w, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
