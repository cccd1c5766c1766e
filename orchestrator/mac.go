package orchestrator

import (
	"fmt"
	"strconv"
	"strings"
)

// macTail is how many addresses one prefix has: its three free bytes.
const macTail = 1 << 24

// ParseMACPrefix checks "02:16:3e": three bytes, lower case, locally administered or a vendor's, never multicast.
func ParseMACPrefix(s string) ([3]byte, error) {
	var b [3]byte
	parts := strings.Split(s, ":")
	if len(parts) != len(b) {
		return b, fmt.Errorf("%q is not three bytes", clip(s))
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) != 2 || part != strings.ToLower(part) {
			return b, fmt.Errorf("%q is not three lower-case bytes", clip(s))
		}
		b[i] = byte(n)
	}
	if b[0]&1 != 0 {
		return b, fmt.Errorf("%q is a multicast prefix", s)
	}
	return b, nil
}

// macAt is the n-th address of a prefix.
func macAt(prefix string, n int) string {
	return fmt.Sprintf("%s:%02x:%02x:%02x", prefix, n>>16&0xff, n>>8&0xff, n&0xff)
}
