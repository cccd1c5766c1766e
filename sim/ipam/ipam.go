// Package ipam is a reference of the address service that docs/ipam.md describes, for tests and for trying things out: it keeps what it
// gives in memory.
package ipam

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Pool is what may be given in a pool: every address of the ranges.
type Pool struct{ Private, Public []orchestrator.AddressRange }

// Service implements orchestrator.Addresses by itself, and serves it over HTTP. Safe for concurrent use.
type Service struct {
	token orchestrator.Secret
	page  int
	pools map[string]Pool

	mu   sync.Mutex
	kept map[string]map[string]orchestrator.Reservation // pool → key
}

var _ orchestrator.Addresses = (*Service)(nil)

// New makes one whose lists have pages of so many; 0 is 500.
func New(token orchestrator.Secret, page int, pools map[string]Pool) *Service {
	s := &Service{token: token, page: cmp.Or(page, 500), pools: pools, kept: map[string]map[string]orchestrator.Reservation{}}
	for id := range pools {
		s.kept[id] = map[string]orchestrator.Reservation{}
	}
	return s
}

// Reserve implements orchestrator.Addresses.
func (s *Service) Reserve(_ context.Context, pool string, r orchestrator.ReservationRequest) (orchestrator.Reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pools[pool]
	if !ok {
		return orchestrator.Reservation{}, orchestrator.Errorf("Reserve", orchestrator.Permanent, "there is no pool %q", pool)
	}
	if reservation, ok := s.kept[pool][r.Key]; ok {
		if reservation.Machine != r.Machine {
			return orchestrator.Reservation{}, orchestrator.Errorf("Reserve", orchestrator.Permanent, "the key belongs to another machine")
		}
		return reservation, nil
	}
	reservation := orchestrator.Reservation{Key: r.Key, Machine: r.Machine, Private: s.free(p.Private)}
	if r.Public {
		reservation.Public = s.free(p.Public)
	}
	if !reservation.Private.IsValid() || r.Public && !reservation.Public.IsValid() {
		return orchestrator.Reservation{}, orchestrator.Errorf("Reserve", orchestrator.Exhausted, "pool %s is full", pool)
	}
	s.kept[pool][r.Key] = reservation
	return reservation, nil
}

// free is an address that is in no reservation of any pool: pools may share a subnet.
func (s *Service) free(ranges []orchestrator.AddressRange) netip.Addr {
	taken := map[netip.Addr]bool{}
	for _, kept := range s.kept {
		for _, r := range kept {
			taken[r.Private], taken[r.Public] = true, true
		}
	}
	for _, r := range ranges {
		for a := r.First; a.IsValid() && r.Contains(a); a = a.Next() {
			if !taken[a] {
				return a
			}
		}
	}
	return netip.Addr{}
}

// Confirm implements orchestrator.Addresses.
func (s *Service) Confirm(_ context.Context, pool, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.kept[pool][key]; ok {
		r.Confirmed = true
		s.kept[pool][key] = r
	}
	return nil
}

// Release implements orchestrator.Addresses.
func (s *Service) Release(_ context.Context, pool, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept[pool], key)
	return nil
}

// Reservations implements orchestrator.Addresses.
func (s *Service) Reservations(_ context.Context, pool string) ([]orchestrator.Reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pools[pool]; !ok {
		return nil, orchestrator.Errorf("Reservations", orchestrator.Permanent, "there is no pool %q", pool)
	}
	var list []orchestrator.Reservation
	for _, key := range slices.Sorted(maps.Keys(s.kept[pool])) {
		list = append(list, s.kept[pool][key])
	}
	return list, nil
}

// Handler serves the contract.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/pools/{pool}/reservations/{key}", s.put)
	mux.HandleFunc("DELETE /v1/pools/{pool}/reservations/{key}", func(w http.ResponseWriter, r *http.Request) {
		_ = s.Release(r.Context(), r.PathValue("pool"), r.PathValue("key")) // never fails
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /v1/pools/{pool}/reservations/{key}/confirm", s.confirm)
	mux.HandleFunc("GET /v1/pools/{pool}/reservations", s.list)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(given), []byte(s.token.Reveal())) != 1 {
			refuse(w, http.StatusUnauthorized, "unauthorized", "the token is not the one")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Service) put(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Machine, Tenant, Name, Hostname string
		Public                          bool
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&body); err != nil || body.Machine == "" {
		refuse(w, http.StatusBadRequest, "refused", "the body is not a request for a reservation")
		return
	}
	reservation, err := s.Reserve(r.Context(), r.PathValue("pool"), orchestrator.ReservationRequest{
		Key: r.PathValue("key"), Machine: body.Machine, Tenant: body.Tenant, Name: body.Name, Hostname: body.Hostname, Public: body.Public,
	})
	switch orchestrator.KindOf(err) {
	case "":
		answer(w, http.StatusOK, shown(reservation))
	case orchestrator.Exhausted:
		refuse(w, http.StatusConflict, "exhausted", err.Error())
	default:
		refuse(w, http.StatusUnprocessableEntity, "refused", err.Error())
	}
}

func (s *Service) confirm(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	_, ok := s.kept[r.PathValue("pool")][r.PathValue("key")]
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "not_found", "there is no such reservation")
		return
	}
	_ = s.Confirm(r.Context(), r.PathValue("pool"), r.PathValue("key")) // never fails
	w.WriteHeader(http.StatusNoContent)
}

func (s *Service) list(w http.ResponseWriter, r *http.Request) {
	all, err := s.Reservations(r.Context(), r.PathValue("pool"))
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, "refused", err.Error())
		return
	}
	after := r.URL.Query().Get("after")
	page := map[string]any{}
	list := []any{}
	for _, reservation := range all {
		if reservation.Key <= after {
			continue
		}
		if len(list) == s.page {
			break
		}
		list = append(list, shown(reservation))
		page["next"] = reservation.Key
	}
	if len(list) < s.page {
		delete(page, "next")
	}
	page["reservations"] = list
	answer(w, http.StatusOK, page)
}

func shown(r orchestrator.Reservation) map[string]any {
	m := map[string]any{"key": r.Key, "machine": r.Machine, "private": r.Private, "state": "reserved"}
	if r.Public.IsValid() {
		m["public"] = r.Public
	}
	if r.Hostname != "" {
		m["hostname"] = r.Hostname
	}
	if r.Confirmed {
		m["state"] = "confirmed"
	}
	return m
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]string{"error": code, "message": message})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked has gone
}

// Main serves until the context ends. It prints one line: its URL.
func Main(ctx context.Context, listen string, s *Service, stdout io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if _, err := fmt.Fprintf(stdout, "http://%s\n", listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("sim ipam: %w", err)
	}
	return nil
}
