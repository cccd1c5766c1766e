package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestLockout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLockout()
		source := func(n int) netip.Prefix { return sourceOf(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)})) }
		wrong := func(n int, machine string, want bool) {
			t.Helper()
			if _, ok := l.guess(source(n), machine); ok != want {
				t.Errorf("source %d may guess at %s: %v, want %v", n, machine, ok, want)
			}
		}
		for range 4 {
			wrong(1, "web", true)
		}
		right, ok := l.guess(source(1), "web")
		if !ok {
			t.Fatal("the fifth")
		}
		right() // and the owner has all five again
		for range 5 {
			wrong(1, "web", true)
		}
		for range 100 { // a locked source counts for nothing: neither for the machine, nor for its own wait
			wrong(1, "web", false)
			time.Sleep(5 * time.Second)
		}
		wrong(2, "web", true)
		time.Sleep(guessWindow - 500*time.Second + time.Second)
		wrong(1, "web", true)

		for n := range 6 {
			for range 5 {
				wrong(10+n, "db", true)
			}
		}
		wrong(20, "db", false)
		wrong(20, "mail", true)
		time.Sleep(guessWindow + time.Second)
		wrong(20, "db", true)

		for n := range maxSources + 10 { // what is remembered is bounded
			_, _ = l.guess(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32), fmt.Sprint(n))
		}
		if len(l.sources) > maxSources {
			t.Errorf("%d sources are remembered", len(l.sources))
		}
	})
}

func TestSourceOf(t *testing.T) {
	for address, want := range map[string]string{"198.51.100.7": "198.51.100.7/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64"} {
		if got := sourceOf(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
	if sourceOf(netip.Addr{}).IsValid() {
		t.Error("nobody is somebody")
	}
}
