package xvp

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

// Parse reads a configuration under the grammar of xvp 1.16.0 (server/config.c) and the stricter rules for our own lines. xvp has no way to
// check a file: it ends on a bad one, and takes every open session with it, so what Parse passes must be what xvp passes. A refusal is a
// *SyntaxError and the first one found. A file without a pool is no error here; see File.Empty.
//
//	[DATABASE dsn [user [password]]]
//	[OTP REQUIRE|ALLOW|DENY [IPCHECK ON|OFF|HTTP] [window]]
//	[MULTIPLEX port]
//	POOL name…
//	  DOMAIN name|""
//	  MANAGER user 32-hex-digits
//	  HOST [ipv4] name          one or more
//	  [GROUP name…]             any number, before any VM
//	  VM port|:display|- name|uuid 16-hex-digits    one or more
//	INCLUDE file                anywhere
func Parse(name string, src []byte, rules Rules) (*File, error) {
	if rules.MaxPorts == 0 {
		rules.MaxPorts = DefaultMaxPorts
	}
	p := &parser{
		rules: rules, file: &File{}, pool: -1,
		pools: map[string]Position{}, ports: map[uint16]Position{}, uuids: map[string]Position{},
	}
	if err := p.read(name, src, 1); err != nil {
		return nil, err
	}
	if err := p.finishPool(); err != nil {
		return nil, err
	}
	return p.file, nil
}

// state is the earliest keyword that may come next.
type state int

const (
	atDatabase state = iota
	atOTP
	atMultiplex
	atPool
	atDomain
	atManager
	atHost // and, once there is a host, GROUP and VM
	atVM   // after the first GROUP: no HOST any more
)

type parser struct {
	rules  Rules
	file   *File
	state  state
	pos    Position // of the line being read
	ours   bool     // the line is in a file of ours
	pool   int      // index of the open pool, -1 for none
	opened int      // pools seen so far

	pools map[string]Position
	hosts map[string]Position // of the open pool
	names map[string]Position // VM names of the open pool
	ports map[uint16]Position
	uuids map[string]Position
	count int // VM ports
	total int // bytes read, included files counted each time
	files int // files read, likewise
}

func (p *parser) fail(rule Rule, format string, args ...any) error {
	return &SyntaxError{Position: p.pos, Rule: rule, Message: fmt.Sprintf(format, args...)}
}

func (p *parser) duplicate(rule Rule, first Position, format string, args ...any) error {
	return &SyntaxError{Position: p.pos, Rule: rule, Message: fmt.Sprintf(format, args...), Other: first}
}

func (p *parser) isOurs(file string) bool { return p.rules.Ours == nil || p.rules.Ours(file) }

// read takes one file; depth counts the files that are open.
func (p *parser) read(name string, src []byte, depth int) error {
	if p.total += len(src); p.total > maxBytes {
		p.pos = Position{File: name}
		return p.fail(LongLine, "the configuration has more than %d bytes with its includes", maxBytes)
	}
	if p.files++; p.files > maxFiles {
		return p.fail(BadInclude, "more than %d files are included", maxFiles)
	}
	block, begin, offset := -1, 0, 0 // the block whose text is being collected, if it began in this file
	closeText := func(end int) {
		if block >= 0 {
			p.file.Pools[block].Text = append([]byte(nil), src[begin:end]...)
			block = -1
		}
	}
	for i, line := range splitLines(src) {
		p.pos, p.ours = Position{File: name, Line: i + 1}, p.isOurs(name)
		before := p.opened
		included, err := p.line(line, depth)
		if err != nil {
			return err
		}
		if p.opened > before {
			closeText(offset)
			if !included {
				block, begin = p.pool, offset
			}
		}
		offset += len(line)
	}
	closeText(len(src))
	return nil
}

// line takes one line; included is true for an INCLUDE.
func (p *parser) line(line []byte, depth int) (included bool, err error) {
	w, rule, problem := words(line)
	if rule != "" {
		return false, p.fail(rule, "%s", problem)
	}
	if len(w) == 0 {
		return false, nil
	}
	if p.ours {
		for _, word := range w {
			if word.open && word.quoted {
				return false, p.fail(BadArgument, "a quote is not closed")
			}
		}
	}
	if w[0].text == "INCLUDE" && len(w) == 2 {
		return true, p.include(w[1].text, depth)
	}
	return false, p.keyword(w)
}

func (p *parser) include(path string, depth int) error {
	switch {
	case p.rules.Include == nil:
		return p.fail(BadInclude, "INCLUDE has no place in this file")
	case depth >= maxDepth:
		return p.fail(BadInclude, "INCLUDE is nested more than %d files deep", maxDepth)
	case !filepath.IsAbs(path):
		return p.fail(BadInclude, "INCLUDE of the relative path %q: xvp looks it up where it was started, write it from the root", path)
	}
	src, err := p.rules.Include(path)
	if err != nil {
		return p.fail(BadInclude, "INCLUDE %q cannot be read: %v", path, err)
	}
	return p.read(path, src, depth+1)
}

func (p *parser) keyword(w []word) error {
	switch key := w[0].text; {
	case key == "DATABASE" && p.state == atDatabase:
		return p.database(w)
	case key == "OTP" && p.state <= atOTP:
		return p.otp(w)
	case key == "MULTIPLEX" && p.state <= atMultiplex:
		return p.multiplex(w)
	case key == "POOL" && (p.state <= atPool || p.hasVM()):
		return p.poolLine(w)
	case key == "DOMAIN" && p.state == atDomain:
		return p.domain(w)
	case key == "MANAGER" && p.state == atManager:
		return p.manager(w)
	case key == "HOST" && p.state == atHost:
		return p.host(w)
	case key == "GROUP" && p.hasHost():
		return p.group(w)
	case key == "VM" && p.hasHost():
		return p.vm(w)
	default:
		return p.fail(Order, "%s here, where %s", printable(key), p.expected())
	}
}

func (p *parser) current() *Pool { return &p.file.Pools[p.pool] }
func (p *parser) hasHost() bool  { return p.state >= atHost && len(p.current().Hosts) > 0 }
func (p *parser) hasVM() bool    { return p.state >= atHost && len(p.current().VMs) > 0 }

// expected says what may stand on the line instead.
func (p *parser) expected() string {
	switch {
	case p.state <= atOTP:
		return "DATABASE, OTP, MULTIPLEX or POOL may stand, in this order"
	case p.state == atMultiplex:
		return "MULTIPLEX or POOL may stand"
	case p.state == atPool:
		return "POOL must stand"
	case p.state == atDomain:
		return "the pool's DOMAIN must stand"
	case p.state == atManager:
		return "the pool's MANAGER must stand"
	case !p.hasHost():
		return "the pool's first HOST must stand"
	case !p.hasVM():
		return "HOST, GROUP or the pool's first VM may stand"
	case p.state == atVM:
		return "GROUP, VM or POOL may stand"
	default:
		return "HOST, GROUP, VM or POOL may stand"
	}
}

func (p *parser) database(w []word) error {
	if len(w) < 2 || len(w) > 4 {
		return p.fail(BadArgument, "DATABASE takes a name, and a user and a password if need be")
	}
	for _, word := range w[1:] {
		p.file.Database = append(p.file.Database, word.text)
	}
	p.state = atOTP
	return nil
}

func (p *parser) otp(w []word) error {
	const usage = "OTP takes REQUIRE, ALLOW or DENY, then IPCHECK with ON, OFF or HTTP, then seconds from 1 to 3600"
	otp, rest := &OTP{}, w[1:]
	if len(rest) == 0 || !oneOf(rest[0].text, "REQUIRE", "ALLOW", "DENY") {
		return p.fail(BadArgument, usage)
	}
	otp.Mode, rest = rest[0].text, rest[1:]
	if len(rest) > 0 && rest[0].text == "IPCHECK" {
		if len(rest) < 2 || !oneOf(rest[1].text, "ON", "OFF", "HTTP") { // without the word xvp reads past the line
			return p.fail(BadArgument, usage)
		}
		otp.IPCheck, rest = rest[1].text, rest[2:]
	}
	if len(rest) > 0 {
		n, err := strconv.Atoi(rest[0].text)
		if err != nil || n < 1 || n > maxWindow || len(rest) > 1 {
			return p.fail(BadArgument, usage)
		}
		otp.Window = n
	}
	p.file.OTP, p.state = otp, atMultiplex
	return nil
}

func (p *parser) multiplex(w []word) error {
	if len(w) != 2 {
		return p.fail(BadArgument, "MULTIPLEX takes a port")
	}
	port, _, ok := parsePort(w[1].text)
	if !ok {
		return p.fail(BadPort, "%s is no port: 1024 to 65535, or :0 to :99", printable(w[1].text))
	}
	p.file.Multiplex, p.ports[port], p.state = port, p.pos, atPool
	return nil
}

func (p *parser) poolLine(w []word) error {
	var parts []string
	for _, word := range w[1:] {
		parts = append(parts, word.text)
	}
	name := strings.Join(parts, " ")
	switch first, taken := p.pools[name]; {
	case name == "" || len(name) > maxPool:
		return p.fail(BadArgument, "POOL takes a name of 1 to %d bytes, this has %d", maxPool, len(name))
	case strings.Contains(name, ":"):
		return p.fail(BadArgument, "the pool name %s holds a colon", printable(name))
	case taken:
		return p.duplicate(DuplicatePool, first, "a second pool named %s", printable(name))
	}
	p.pools[name] = p.pos
	p.hosts, p.names = map[string]Position{}, map[string]Position{}
	p.file.Pools = append(p.file.Pools, Pool{Position: p.pos, Name: name})
	p.pool, p.state = len(p.file.Pools)-1, atDomain
	p.opened++
	return nil
}

// finishPool refuses a last block that has no VM, at its POOL line; xvp says "unexpected end of file".
func (p *parser) finishPool() error {
	if p.pool < 0 || p.hasVM() {
		return nil
	}
	pool := p.current()
	p.pos = pool.Position
	return p.fail(Unfinished, "the pool %s has no VM: %s", printable(pool.Name), p.expected())
}

func (p *parser) domain(w []word) error {
	if len(w) != 2 {
		return p.fail(BadArgument, `DOMAIN takes a name, or "" for none`)
	}
	// For an empty name xvp measures what follows the quotes instead.
	if len(w[1].text) > maxDomain || w[1].text == "" && w[1].rest > maxDomain {
		return p.fail(BadArgument, "DOMAIN takes at most %d bytes", maxDomain)
	}
	p.current().Domain, p.state = w[1].text, atManager
	return nil
}

func (p *parser) manager(w []word) error {
	switch {
	case len(w) != 3:
		return p.fail(BadArgument, "MANAGER takes a user and an encrypted password")
	case w[1].text == "" && p.ours, len(w[1].text) > maxManager:
		return p.fail(BadArgument, "MANAGER takes a user of 1 to %d bytes, this has %d", maxManager, len(w[1].text))
	case !isHex(w[2].text, 2*MaxXenPassword):
		return p.fail(BadPassword, "the password of MANAGER is not %d hex digits", 2*MaxXenPassword)
	}
	p.current().Manager, p.current().ManagerPassword, p.state = w[1].text, w[2].text, atHost
	return nil
}

func (p *parser) host(w []word) error {
	host := Host{Position: p.pos}
	switch len(w) {
	case 2:
		host.Name = w[1].text
	case 3:
		host.Address, host.Name = w[1].text, w[2].text
		if !isIPv4(host.Address) {
			return p.fail(BadArgument, "%s is no IPv4 address", printable(host.Address))
		}
	default:
		return p.fail(BadArgument, "HOST takes a name, and an IPv4 address before it if need be")
	}
	pool := p.current()
	full := len(host.Name)
	if pool.Domain != "" && !isIPv4(host.Name) {
		full += 1 + len(pool.Domain)
	}
	switch first, taken := p.hosts[host.Name]; {
	case p.ours && len(pool.VMs) > 0:
		return p.fail(Order, "HOST after a VM")
	case p.ours && host.Name == "", len(host.Name) > maxHost:
		return p.fail(BadArgument, "HOST takes a name of 1 to %d bytes, this has %d", maxHost, len(host.Name))
	case host.Address == "" && full > maxURLHost:
		return p.fail(BadArgument, "host name and domain have %d bytes together, xvp has room for %d", full, maxURLHost)
	case taken:
		return p.duplicate(DuplicateHost, first, "a second host named %s in the pool", printable(host.Name))
	}
	p.hosts[host.Name] = p.pos
	pool.Hosts = append(pool.Hosts, host)
	return nil
}

func (p *parser) group(w []word) error {
	if len(w) < 2 {
		return p.fail(BadArgument, "GROUP takes a name")
	}
	p.state = atVM
	return nil
}

func (p *parser) vm(w []word) error {
	if len(w) != 4 {
		return p.fail(BadArgument, "VM takes a port, a uuid and an encrypted password")
	}
	vm := VM{Position: p.pos, Name: w[2].text, Password: w[3].text}
	switch {
	case len(vm.Name) > maxHost:
		return p.fail(BadArgument, "the VM name has %d bytes, at most %d fit", len(vm.Name), maxHost)
	case p.ours && !isUUID(vm.Name):
		return p.fail(BadArgument, "%s is no XenAPI uuid: names are not unique and may be changed", printable(vm.Name))
	case !isHex(vm.Password, 2*MaxVNCPassword):
		return p.fail(BadPassword, "the password of the VM is not %d hex digits", 2*MaxVNCPassword)
	}
	if err := p.vmPort(&vm, w[1].text); err != nil {
		return err
	}
	if first, taken := p.names[vm.Name]; taken {
		// xvp overlooks this for a uuid, which it stores under another name. We do not, and it is no site's wish.
		if p.ours || p.isOurs(first.File) || !isUUID(vm.Name) {
			return p.duplicate(DuplicateVM, first, "a second VM named %s in the pool", printable(vm.Name))
		}
	} else if first, taken := p.uuids[vm.Name]; taken && isUUID(vm.Name) && (p.ours || p.isOurs(first.File)) {
		return p.duplicate(DuplicateVM, first, "a second VM with the uuid %s", vm.Name)
	}
	if vm.Port != 0 {
		if first, taken := p.ports[vm.Port]; taken {
			return p.duplicate(DuplicatePort, first, "port %d is taken", vm.Port)
		}
		p.ports[vm.Port] = p.pos
		if p.count++; p.count > p.rules.MaxPorts {
			return p.fail(ManyPorts, "this is port number %d, one xvp process watches %d: open a second console group", p.count, p.rules.MaxPorts)
		}
	}
	p.names[vm.Name], p.uuids[vm.Name] = p.pos, p.pos
	p.current().VMs = append(p.current().VMs, vm)
	return nil
}

func (p *parser) vmPort(vm *VM, text string) error {
	if text == "-" {
		if p.file.Multiplex == 0 {
			return p.fail(BadPort, `the port "-" needs a MULTIPLEX line before the first POOL`)
		}
		return nil
	}
	port, plain, ok := parsePort(text)
	switch {
	case !ok, p.ours && !plain:
		return p.fail(BadPort, "%s is no port: 1024 to 65535, or :0 to :99", printable(text))
	case p.ours && inRange(p.rules.Ephemeral, port) && !inAny(p.rules.Reserved, port):
		return p.fail(BadPort, "port %d is in the range %d to %d from which the kernel serves outgoing connections: xvp ends when one has it",
			port, p.rules.Ephemeral.First, p.rules.Ephemeral.Last)
	}
	vm.Port = port
	return nil
}

// parsePort reads a port as xvp does, with C's atoi: digits, and whatever follows is passed over ("30001abc" is 30001). plain reports a
// port as we write one: decimal digits, or a colon and decimal digits, and nothing else.
func parsePort(text string) (port uint16, plain, ok bool) {
	digits, display := strings.CutPrefix(text, ":")
	signless := strings.TrimLeft(digits, " \t")
	if strings.HasPrefix(signless, "+") || strings.HasPrefix(signless, "-") {
		signless = signless[1:]
	}
	end := 0
	for end < len(signless) && signless[end] >= '0' && signless[end] <= '9' {
		end++
	}
	if end > 9 { // beyond an int, on which atoi promises nothing
		return 0, false, false
	}
	n := 0
	for _, c := range []byte(signless[:end]) {
		n = 10*n + int(c-'0')
	}
	if n > 0 && strings.HasPrefix(strings.TrimLeft(digits, " \t"), "-") {
		return 0, false, false
	}
	plain = end > 0 && end == len(digits) && (signless[0] != '0' || end == 1)
	if display {
		return uint16(displayMin + min(n, displayMax)), plain, n <= displayMax
	}
	return uint16(min(n, 65535)), plain, n >= minPort && n <= 65535
}

func inRange(r orchestrator.PortRange, port uint16) bool {
	return r.Last != 0 && r.First <= port && port <= r.Last
}

func inAny(ranges []orchestrator.PortRange, port uint16) bool {
	for _, r := range ranges {
		if inRange(r, port) {
			return true
		}
	}
	return false
}

func oneOf(text string, all ...string) bool {
	for _, s := range all {
		if s == text {
			return true
		}
	}
	return false
}

func isHex(text string, digits int) bool {
	if len(text) != digits {
		return false
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// isIPv4 is xvp's own test: four decimal numbers up to 255, 15 bytes in all; leading zeros pass.
func isIPv4(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 4 || len(text) > 15 {
		return false
	}
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || n > 255 {
			return false
		}
	}
	return true
}

// isUUID is xvp's own test: 36 bytes, lower-case hex with dashes in their places. Anything else it takes for a name label.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range []byte(text) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') {
			return false
		} else if !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// printable quotes foreign text for a message, shortened.
func printable(text string) string {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return strconv.Quote(text)
}
