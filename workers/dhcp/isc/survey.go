package isc

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

var _ agent.Surveyor = (*Unit)(nil)

// Bounds of a survey: bytes and files in all (a file that is included twice counts twice), open includes, and open braces.
const (
	maxSurveyBytes = 64 << 20
	maxSurveyFiles = 1000
	maxIncludes    = 16
	maxBraces      = 100
	maxWords       = 64 // of one statement; what follows is read over
)

// Survey implements agent.Surveyor: host blocks, subnets and ranges of the main file and of everything that it includes, except ours.
// Statements that say nothing of these are read over, whatever they are: whether dhcpd takes the files is for dhcpd to say.
func (u *Unit) Survey(ctx context.Context) (apply.Survey, error) {
	s := surveyor{ctx: ctx, ours: u.cfg.Include, open: readBounded}
	err := s.file(u.cfg.Main, 1)
	return s.Survey, err
}

// surveyor reads dhcpd's configuration for its strangers.
type surveyor struct {
	apply.Survey
	ctx   context.Context
	ours  string
	open  func(path string) ([]byte, error)
	bytes int
	files int
	// blocks are the open braces across all files: dhcpd closes a block in the file where it stands, and so nothing depends on it.
	blocks []opened
}

// opened is an open brace, and the host that it declares, if it does.
type opened struct{ host *apply.SurveyedHost }

// file reads one; depth counts the files that are open.
func (s *surveyor) file(path string, depth int) error {
	if err := s.ctx.Err(); err != nil {
		return context.Cause(s.ctx)
	}
	if s.files++; s.files > maxSurveyFiles {
		return fmt.Errorf("%s: more than %d files are included", path, maxSurveyFiles)
	}
	text, err := s.open(path)
	if err != nil {
		return err
	}
	if s.bytes += len(text); s.bytes > maxSurveyBytes {
		return fmt.Errorf("%s: the files have more than %d bytes", path, maxSurveyBytes)
	}
	s.Files = append(s.Files, path)
	return s.read(path, string(text), depth)
}

// read takes a file's statements one after another.
func (s *surveyor) read(path, text string, depth int) error {
	lex := lexer{text: text, line: 1}
	outside := len(s.blocks)
	defer func() { s.blocks = s.blocks[:min(outside, len(s.blocks))] }()
	var words []string
	line := 0
	for {
		t, ok := lex.next()
		if !ok {
			return nil
		}
		if len(words) == 0 {
			line = t.line
		}
		at := apply.Place{File: path, Line: line}
		switch {
		case t.text == ";" && !t.quoted:
			if err := s.statement(at, words, depth); err != nil {
				return err
			}
			words = words[:0]
		case t.text == "{" && !t.quoted:
			if len(s.blocks) >= maxBraces {
				return fmt.Errorf("%s: more than %d blocks are open", at, maxBraces)
			}
			s.begin(at, words)
			words = words[:0]
		case t.text == "}" && !t.quoted:
			if len(s.blocks) > outside {
				s.end()
			}
			words = words[:0]
		case len(words) < maxWords:
			words = append(words, t.text)
		}
	}
}

// begin opens a block. A subnet is told here: what it holds does not matter.
func (s *surveyor) begin(at apply.Place, words []string) {
	b := opened{}
	switch {
	case is(words, "host") && len(words) == 2:
		b.host = &apply.SurveyedHost{Place: at, Name: clipped(words[1])}
	case is(words, "subnet") && len(words) == 4 && strings.EqualFold(words[2], "netmask"):
		prefix, ok := maskedPrefix(words[1], words[3])
		switch {
		case !ok:
			s.Note("%s: the subnet %s netmask %s is none", at, clipped(words[1]), clipped(words[3]))
		case s.Room(1):
			s.Subnets = append(s.Subnets, apply.SurveyedSubnet{Place: at, Prefix: prefix})
		}
	}
	s.blocks = append(s.blocks, b)
}

func (s *surveyor) end() {
	last := s.blocks[len(s.blocks)-1]
	s.blocks = s.blocks[:len(s.blocks)-1]
	if h := last.host; h != nil && (h.MAC != "" || len(h.Addresses) > 0) && s.Room(1) {
		s.Hosts = append(s.Hosts, *h)
	}
}

// host is the innermost open host block.
func (s *surveyor) host() *apply.SurveyedHost {
	for i := len(s.blocks) - 1; i >= 0; i-- {
		if s.blocks[i].host != nil {
			return s.blocks[i].host
		}
	}
	return nil
}

func (s *surveyor) statement(at apply.Place, words []string, depth int) error {
	switch {
	case is(words, "include") && len(words) == 2:
		return s.include(at, words[1], depth)
	case is(words, "range"):
		s.rangeOf(at, words[1:])
	case is(words, "hardware") && len(words) > 2 && s.host() != nil:
		mac, ok := macOf(words[2:])
		if !ok {
			s.Note("%s: the hardware address of host %s is none", at, s.host().Name)
			return nil
		}
		s.host().MAC = mac
	case is(words, "fixed-address") && s.host() != nil:
		s.fixed(at, words[1:])
	}
	return nil
}

func (s *surveyor) include(at apply.Place, path string, depth int) error {
	switch {
	case path == s.ours:
		return nil
	case depth >= maxIncludes:
		return fmt.Errorf("%s: include is nested more than %d files deep", at, maxIncludes)
	case !filepath.IsAbs(path):
		s.Note("%s: %q is not read, since dhcpd looks for it where it was started; write it from the root", at, clipped(path))
		return nil
	}
	if err := s.file(path, depth+1); err != nil {
		return fmt.Errorf("%s: include: %w", at, err)
	}
	return nil
}

// rangeOf reads `range [dynamic-bootp] first [last]`.
func (s *surveyor) rangeOf(at apply.Place, words []string) {
	if is(words, "dynamic-bootp") {
		words = words[1:]
	}
	var ends []netip.Addr
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil || !a.Is4() {
			ends = nil
			break
		}
		ends = append(ends, a)
	}
	if len(ends) < 1 || len(ends) > 2 || ends[len(ends)-1].Less(ends[0]) {
		s.Note("%s: the range is none: %s", at, clipped(strings.Join(words, " ")))
		return
	}
	if s.Room(1) {
		s.Ranges = append(s.Ranges, apply.SurveyedRange{Place: at, First: ends[0], Last: ends[len(ends)-1]})
	}
}

// fixed reads the addresses of a host. dhcpd takes names there and looks them up; we do not.
func (s *surveyor) fixed(at apply.Place, words []string) {
	host := s.host()
	for _, w := range words {
		if w == "," {
			continue
		}
		a, err := netip.ParseAddr(w)
		if err != nil || !a.Is4() {
			s.Note("%s: host %s has the name %s for an address, which dhcpd looks up: mark its address by hand, with slipway ip mark", at, host.Name, clipped(w))
			continue
		}
		if len(host.Addresses) < maxWords {
			host.Addresses = append(host.Addresses, a)
		}
	}
}

func is(words []string, keyword string) bool {
	return len(words) > 0 && strings.EqualFold(words[0], keyword)
}

// maskedPrefix reads a subnet's number and mask.
func maskedPrefix(number, mask string) (netip.Prefix, bool) {
	a, errA := netip.ParseAddr(number)
	m, errM := netip.ParseAddr(mask)
	if errA != nil || errM != nil || !a.Is4() || !m.Is4() {
		return netip.Prefix{}, false
	}
	bits4 := m.As4()
	ones := binary.BigEndian.Uint32(bits4[:])
	bits, _ := net.IPMask(bits4[:]).Size() // 0 of 0 for one with holes
	if bits == 0 && ones != 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

// macOf reads a hardware address as dhcpd does: hexadecimal numbers of one or two digits between colons.
func macOf(words []string) (string, bool) {
	parts := strings.Split(strings.Join(words, ""), ":")
	if len(parts) != 6 {
		return "", false
	}
	mac := make(net.HardwareAddr, 0, 6)
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 {
			return "", false
		}
		mac = append(mac, byte(n))
	}
	return mac.String(), true
}

// clipped is a word of the site's on its way into an answer.
func clipped(s string) string {
	if len(s) > apply.MaxText {
		s = s[:apply.MaxText]
	}
	return printable(strings.ToValidUTF8(s, "?"))
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxSurveyBytes+1))
}
