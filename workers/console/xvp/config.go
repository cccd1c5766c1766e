package xvp

import (
	"fmt"

	"slipway/orchestrator"
)

// Limits of xvp 1.16.0 (server/xvp.h and server/config.c). The arithmetic is the source's own: a pool name may have 79 bytes although the
// constant says 80, because the source counts a blank before each word.
const (
	maxLine    = 4095 // bytes before the line break; xvp cuts a longer line in two without a word
	maxWords   = 10
	maxDepth   = 5 // files open at once, the first one included
	maxPool    = 79
	maxDomain  = 79 // xvp admits 81 and writes past its buffer
	maxManager = 32
	maxHost    = 80
	maxURLHost = 80 // host name and domain together; xvp writes past its buffer beyond
	maxWindow  = 3600
	minPort    = 1024
	displayMin = 5900 // port of display ":0"
	displayMax = 99

	// DefaultMaxPorts is the number of ports that one xvp process can watch with room to spare. It uses select(2) with 1,024 descriptors:
	// measured, 1,016 ports work, with 1,020 the last ones no longer accept, 1,100 end it and 2,000 crash it.
	DefaultMaxPorts = 1000
	// What is read in all: 1,000 VM lines are 100 kB.
	maxBytes = 8 << 20
	maxFiles = 1000
)

// File is a whole configuration as xvp reads it, includes followed.
type File struct {
	Database  []string // words after DATABASE, for xvp's web pages; nil when there is none
	OTP       *OTP     // nil when there is none: xvp then allows one-time passwords
	Multiplex uint16   // 0 when there is none
	Pools     []Pool
}

// OTP is the line about one-time passwords.
type OTP struct {
	Mode    string // REQUIRE, ALLOW or DENY
	IPCheck string // ON, OFF or HTTP; "" when not given
	Window  int    // seconds, 0 when not given
}

// Pool is one POOL block.
type Pool struct {
	Position
	Name            string
	Domain          string // "" is none
	Manager         string // XenAPI account
	ManagerPassword string // 32 hex digits
	Hosts           []Host
	VMs             []VM
	// Text is the block as it stands in its file, byte for byte, comments and line breaks included: from the POOL line to before the next
	// one, or to the first INCLUDE after which another file began a block, or to the end of the file.
	Text []byte
}

// Host is one server of a pool.
type Host struct {
	Position
	Address string // IPv4, "" when xvp resolves the name
	Name    string
}

// VM is one console.
type VM struct {
	Position
	Port     uint16 // 0 for "-": reached through the multiplex port only
	Name     string // a XenAPI uuid in our files; foreign ones may have a name
	Password string // 16 hex digits
}

// Empty reports that no console is configured. xvp does not run on such a file: it must be stopped.
func (f *File) Empty() bool { return len(f.Pools) == 0 }

// Ports lists every TCP port that xvp listens on for this file, the multiplex port first, then in the file's order.
// It is nil for an empty file, on which xvp does not run.
func (f *File) Ports() []uint16 {
	if f.Empty() {
		return nil
	}
	var ports []uint16
	if f.Multiplex != 0 {
		ports = append(ports, f.Multiplex)
	}
	for _, pool := range f.Pools {
		for _, vm := range pool.VMs {
			if vm.Port != 0 {
				ports = append(ports, vm.Port)
			}
		}
	}
	return ports
}

// Position is where something stands. Line counts from 1; 0 stands for the whole file.
type Position struct {
	File string
	Line int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s line %d", p.File, p.Line)
}

// Rule names what a file broke.
type Rule string

// The rules of xvp itself, in the order in which a reader meets them.
const (
	BadByte       Rule = "bad-byte"       // a control character
	LongLine      Rule = "long-line"      // over 4095 bytes
	ManyWords     Rule = "many-words"     // over 10
	BadInclude    Rule = "bad-include"    // too deep, unreadable, or not allowed here
	Order         Rule = "order"          // an unknown keyword, or one in the wrong place
	BadArgument   Rule = "bad-argument"   // a wrong count, length or form of arguments
	BadPort       Rule = "bad-port"       // not a port, or not in reach
	BadPassword   Rule = "bad-password"   // not an encrypted password
	DuplicatePool Rule = "duplicate-pool" // two pools of one name
	DuplicateHost Rule = "duplicate-host" // within a pool
	DuplicateVM   Rule = "duplicate-vm"   // within a pool by name; by uuid anywhere
	DuplicatePort Rule = "duplicate-port" // anywhere
	Unfinished    Rule = "unfinished"     // a block ended too early
	ManyPorts     Rule = "many-ports"     // more than one process can watch
)

// SyntaxError is one refusal: where, which rule, and in words.
type SyntaxError struct {
	Position
	Rule    Rule
	Message string
	// Other is where the first of two equal things stands, for the duplicates.
	Other Position
}

func (e *SyntaxError) Error() string {
	if e.Other.Line > 0 {
		return fmt.Sprintf("%s: %s (first at %s)", e.Position, e.Message, e.Other)
	}
	return fmt.Sprintf("%s: %s", e.Position, e.Message)
}

// Rules says how strict Parse is. The zero value takes every line as ours and refuses INCLUDE.
type Rules struct {
	// Ours tells which files slipway writes; nil is all of them. Their lines must be as we write them: VMs by uuid, each once, ports in
	// plain decimal and outside the ephemeral range, quotes closed, HOST before VM. A site's own lines are taken as xvp takes them, except
	// for those on which it reads or writes out of bounds: those are refused everywhere.
	Ours func(file string) bool
	// Include reads the file of an INCLUDE line. The path is absolute: xvp would look a relative one up in the directory it was started in.
	Include func(path string) ([]byte, error)
	// Ephemeral is the range from which the kernel gives ports to outgoing connections; a port in it may be taken when xvp binds, and then
	// xvp ends. The zero range is none.
	Ephemeral orchestrator.PortRange
	// Reserved are the ports in the ephemeral range that the kernel leaves alone (net.ipv4.ip_local_reserved_ports).
	Reserved []orchestrator.PortRange
	// MaxPorts bounds the ports of one file, the multiplex port not counted; 0 means DefaultMaxPorts.
	MaxPorts int
}
