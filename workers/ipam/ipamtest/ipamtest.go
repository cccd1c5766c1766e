// Package ipamtest is what every orchestrator.Addresses keeps.
package ipamtest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"slipway/orchestrator"
)

// Pool is the pool of the suite: addresses of Private and Public may be given, and no others.
const Pool = "pool a/1" // to be escaped

// Size is how many machines Exercise's service has room for.
const Size = 8

// Private and Public have room for Size machines each.
var (
	Private = netip.MustParsePrefix("10.0.0.8/29")
	Public  = netip.MustParsePrefix("198.51.100.8/29")
)

// Exercise runs the suite; open makes an empty service each time.
func Exercise(t *testing.T, open func(*testing.T) orchestrator.Addresses) {
	reserve := func(t *testing.T, s orchestrator.Addresses, n int) orchestrator.Reservation {
		t.Helper()
		r, err := s.Reserve(t.Context(), Pool, request(n))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	list := func(t *testing.T, s orchestrator.Addresses) []orchestrator.Reservation {
		t.Helper()
		all, err := s.Reservations(t.Context(), Pool)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	t.Run("a key has one answer until it is released", func(t *testing.T) {
		s := open(t)
		first, again, other := reserve(t, s, 1), reserve(t, s, 1), reserve(t, s, 2)
		if first != again || first.Private == other.Private || first.Public == other.Public {
			t.Errorf("%+v, again %+v, another %+v", first, again, other)
		}
		if !Private.Contains(first.Private) || !Public.Contains(first.Public) || first.Key != request(1).Key || first.Machine != request(1).Machine || first.Confirmed {
			t.Errorf("%+v", first)
		}
		if all := list(t, s); len(all) != 2 || !slices.Contains(all, first) || !slices.Contains(all, other) {
			t.Errorf("listed are %+v", all)
		}
	})
	t.Run("no public address unless it is asked for", func(t *testing.T) {
		s := open(t)
		r := request(1)
		r.Public = false
		if got, err := s.Reserve(t.Context(), Pool, r); err != nil || got.Public.IsValid() {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("confirm and release may be repeated, and take any key", func(t *testing.T) {
		s := open(t)
		r := reserve(t, s, 1)
		for range 2 {
			if err := s.Confirm(t.Context(), Pool, r.Key); err != nil {
				t.Error(err)
			}
		}
		if all := list(t, s); len(all) != 1 || !all[0].Confirmed {
			t.Errorf("%+v", all)
		}
		if again := reserve(t, s, 1); !again.Confirmed || again.Private != r.Private {
			t.Errorf("a repetition after the confirmation has %+v", again)
		}
		for _, key := range []string{r.Key, r.Key, "unknown.1"} {
			if err := s.Release(t.Context(), Pool, key); err != nil {
				t.Error(err)
			}
		}
		if err := s.Confirm(t.Context(), Pool, "unknown.1"); err != nil {
			t.Error(err)
		}
		if all := list(t, s); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
	t.Run("full, and what is released is given again", func(t *testing.T) {
		s := open(t)
		var all []orchestrator.Reservation
		for n := range Size {
			all = append(all, reserve(t, s, n))
		}
		if _, err := s.Reserve(t.Context(), Pool, request(Size)); orchestrator.KindOf(err) != orchestrator.Exhausted {
			t.Errorf("%v", err)
		}
		if len(list(t, s)) != Size {
			t.Error("a refused reservation is kept")
		}
		if err := s.Release(t.Context(), Pool, all[3].Key); err != nil {
			t.Fatal(err)
		}
		if r := reserve(t, s, Size); r.Private != all[3].Private {
			t.Errorf("%s, want %s", r.Private, all[3].Private)
		}
	})
	t.Run("at once", func(t *testing.T) {
		s := open(t)
		got := make([]orchestrator.Reservation, 4*Size)
		var all sync.WaitGroup
		for i := range got {
			all.Go(func() {
				var err error
				if got[i], err = s.Reserve(t.Context(), Pool, request(i%Size)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		owner := map[netip.Addr]string{}
		for i, r := range got {
			if r != got[i%Size] {
				t.Errorf("key %s has two answers", r.Key)
			}
			for _, a := range []netip.Addr{r.Private, r.Public} {
				if other := owner[a]; other != "" && other != r.Key {
					t.Errorf("%s was given under %s and %s", a, other, r.Key)
				}
				owner[a] = r.Key
			}
		}
	})
	t.Run("pools are apart", func(t *testing.T) {
		s := open(t)
		reserve(t, s, 1)
		if _, err := s.Reserve(t.Context(), "nosuch", request(1)); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("%v", err)
		}
	})
}

func request(n int) orchestrator.ReservationRequest {
	return orchestrator.ReservationRequest{
		Key: fmt.Sprintf("20000000-0000-4000-8000-%012d.1", n), Machine: fmt.Sprintf("30000000-0000-4000-8000-%012d", n),
		Tenant: "acme", Name: fmt.Sprintf("web-%d", n), Hostname: fmt.Sprintf("web-%d", n), Public: true,
	}
}
