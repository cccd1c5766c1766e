package orchestrator

import (
	"fmt"
	"strconv"
	"strings"
)

// String is "22" or "8000-8080".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// MarshalText is String.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes, and nothing else: digits only, 1..65535, first not above last.
func (r *PortRange) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	a, errA := parsePort(first)
	b, errB := parsePort(last)
	switch {
	case errA != nil:
		return errA
	case errB != nil:
		return errB
	case a > b:
		return fmt.Errorf("%q ends before it begins", text)
	}
	r.First, r.Last = a, b
	return nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port: write 1 to 65535, or a range such as 8000-8080", s)
	}
	return uint16(n), nil
}
