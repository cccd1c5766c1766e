package service

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// consolesOf are the machines of a pool that have a console, by group.
func (s *Service) consolesOf(ctx context.Context, pool string) (map[string][]orchestrator.Machine, error) {
	machines, err := s.Store.Machines(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]orchestrator.Machine{}
	for _, m := range machines {
		if m.Placement.Pool == pool && m.Placement.Console != "" {
			out[m.Placement.Console] = append(out[m.Placement.Console], m)
		}
	}
	return out, nil
}

func (s *Service) group(id string) config.Group {
	i := slices.IndexFunc(s.Config.Groups, func(g config.Group) bool { return g.ID == id })
	if i < 0 {
		return config.Group{ID: id}
	}
	return s.Config.Groups[i]
}

// poolConsoles are a pool's machines that have a console, by group, and the backend that shows them.
type poolConsoles struct {
	config.Pool
	backend  orchestrator.ConsoleBackend
	machines map[string][]orchestrator.Machine
}

// poolConsoles are those of the pool that a request names.
func (s *Service) poolConsoles(r *http.Request) (p poolConsoles, err error) {
	id := r.PathValue("pool")
	i := slices.IndexFunc(s.Config.Pools, func(p config.Pool) bool { return p.ID == id })
	if i < 0 {
		return p, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no pool %q", id), Next: "slipway console list"}
	}
	p.Pool = s.Config.Pools[i]
	known, err := s.Store.ConsoleBackends(r.Context())
	if err != nil {
		return p, err
	}
	p.backend = backendOf(known, id)
	p.machines, err = s.consolesOf(r.Context(), id)
	return p, err
}

// getConsoles tells which backend shows which pool's consoles.
func (s *Service) getConsoles(r *http.Request) (any, error) {
	ctx := r.Context()
	known, err := s.Store.ConsoleBackends(ctx)
	if err != nil {
		return nil, err
	}
	groups, err := s.Store.Groups(ctx)
	if err != nil {
		return nil, err
	}
	chosen := s.Config.ConsoleBackends()
	out := []api.Consoles{}
	for _, p := range s.Config.Pools {
		machines, err := s.consolesOf(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		backend := backendOf(known, p.ID)
		view := api.Consoles{Pool: p.ID, Backend: string(backend), Configured: string(chosen[p.ID]), Groups: []api.ConsoleGroup{}}
		for _, in := range machines {
			view.Machines += len(in)
		}
		for _, g := range groups {
			if _, used := machines[g.ID]; !used && !slices.Contains(p.Console, g.ID) {
				continue
			}
			one := api.ConsoleGroup{Group: g.ID, Address: s.group(g.ID).ConsoleAddress(backend), Applied: g.Applied == g.Generation}
			reports, err := s.Store.GatewayReports(ctx, g.ID)
			if err != nil {
				return nil, err
			}
			for _, report := range reports {
				one.Gateways++
				one.Ports = max(one.Ports, report.Ports)
				if report.Problem != "" {
					one.Problem = report.Holder + ": " + report.Problem
				}
			}
			view.Groups = append(view.Groups, one)
		}
		out = append(out, view)
	}
	return out, nil
}

// postConsoleMove gives a pool's consoles to a backend. It is done in one transaction: whatever ends after it, the workers bring it about.
func (s *Service) postConsoleMove(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.ConsoleMove
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "to", Problem: "is missing", Fix: "say xvp or gateway"}}
	}
	to := orchestrator.ConsoleBackend(ask.To)
	if !to.IsValid() {
		return nil, orchestrator.FieldErrors{{Field: "to", Problem: "is no console backend", Fix: "say xvp or gateway"}}
	}
	p, err := s.poolConsoles(r)
	if err != nil {
		return nil, err
	}
	moved := api.ConsoleMoved{Pool: p.ID, From: string(p.backend), To: ask.To}
	for _, id := range slices.Sorted(maps.Keys(p.machines)) {
		moved.Machines += len(p.machines[id])
		notes, err := s.movable(ctx, s.group(id), p.backend, to)
		if err != nil {
			return nil, err
		}
		moved.Notes = append(moved.Notes, notes...)
	}
	if configured := s.Config.ConsoleBackends()[p.ID]; configured != to {
		moved.Notes = append(moved.Notes, fmt.Sprintf("pools.%s.console_backend says %s: change it too", p.ID, configured))
	}
	if !ask.Yes {
		return moved, nil
	}
	if _, err := s.Store.MoveConsoles(ctx, p.ID, to, actor(ctx), ask.Reason); err != nil {
		return nil, err
	}
	s.log.Info("consoles moved", "pool", p.ID, "to", to, "machines", moved.Machines, "actor", actor(ctx), "reason", ask.Reason)
	moved.Done = true
	return moved, nil
}

// movable is why a group's consoles cannot be a backend's, and what somebody should know before they are.
func (s *Service) movable(ctx context.Context, g config.Group, from, to orchestrator.ConsoleBackend) (notes []string, err error) {
	if !g.HasConsoleBackend(to) {
		fix := "add its xvp host to the members, and restart the workers"
		if to == orchestrator.ConsoleGateway {
			fix = "add a member with gateway: true and the address of its ports, and restart the workers"
		}
		return nil, orchestrator.FieldErrors{{Field: "groups." + g.ID + ".members", Problem: "has no " + string(to), Fix: fix}}
	}
	if to == orchestrator.ConsoleGateway {
		reports, err := s.Store.GatewayReports(ctx, g.ID)
		if err != nil {
			return nil, err
		}
		if len(reports) == 0 {
			return nil, orchestrator.FieldErrors{{Field: "console.ports", Problem: "is served by nobody: no gateway has reported for group " + g.ID, Fix: "set it on a worker, or start slipway console serve with it"}}
		}
	}
	if was, will := g.ConsoleAddress(from), g.ConsoleAddress(to); from != to && was != will {
		notes = append(notes, fmt.Sprintf("group %s: customers reach their consoles at %s from then on, no longer at %s", g.ID, orElse(will, "(no address)"), orElse(was, "(no address)")))
	}
	return notes, nil
}

// maxProofs is how many consoles one proof asks, proofsAtOnce how many at a time.
const maxProofs, proofsAtOnce = 50, 8

// getConsoleProof asks a pool's consoles for themselves, with their passwords, spread over the pool when there are many.
func (s *Service) getConsoleProof(r *http.Request) (any, error) {
	ctx := r.Context()
	p, err := s.poolConsoles(r)
	if err != nil {
		return nil, err
	}
	proof := api.ConsoleProof{Pool: p.ID, Backend: string(p.backend), Applied: true}
	groups, err := s.Store.Groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if p.machines[g.ID] != nil && g.Applied < g.Generation {
			proof.Applied = false
		}
	}
	var shown []orchestrator.Machine
	for id, machines := range p.machines {
		for _, m := range machines {
			entry, err := s.Store.EntryState(ctx, id, m.ID)
			if err != nil {
				return nil, err
			}
			if entry.Found && !entry.Removed {
				shown = append(shown, m)
			}
		}
	}
	proof.Machines = len(shown)
	step := max(1, (len(shown)+maxProofs-1)/maxProofs)
	places := consolePlaces(s.Config, s.Store)
	var mu sync.Mutex
	var asking sync.WaitGroup
	room := make(chan struct{}, proofsAtOnce)
	for i := 0; i < len(shown); i += step {
		m := shown[i]
		proof.Asked++
		room <- struct{}{}
		asking.Go(func() {
			defer func() { <-room }()
			err := s.proveConsole(ctx, places, m)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				proof.Answered++
				return
			}
			proof.Failed = append(proof.Failed, fmt.Sprintf("%s/%s port %d: %v", m.Tenant, m.Name, m.Placement.ConsolePort, err))
		})
	}
	asking.Wait()
	slices.Sort(proof.Failed)
	return proof, nil
}

// proveConsole is nil when a machine's port takes its password, also while the machine is off.
func (s *Service) proveConsole(ctx context.Context, places func(context.Context, orchestrator.Placement) (ConsolePlace, error), m orchestrator.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, rfb.DefaultTimeout)
	defer cancel()
	place, err := places(ctx, m.Placement)
	if err != nil {
		return err
	}
	if place.Host == "" {
		return fmt.Errorf("group %s has no address to look at", m.Placement.Console)
	}
	password, err := s.Vault.Open(m.ID, orchestrator.SealedConsole, m.ConsolePassword)
	if err != nil {
		return err
	}
	conn, err := place.Dial(ctx, m.Placement.ConsolePort)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err = rfb.Authenticate(ctx, conn, password); err != nil && strings.Contains(err.Error(), "switched off") {
		return nil // only who has the password is told
	}
	return err
}

// postConsolePassword opens a machine's console password for the caller.
func (s *Service) postConsolePassword(r *http.Request) (any, error) {
	ctx := r.Context()
	m, reason, err := s.askedPassword(r)
	if err != nil {
		return nil, err
	}
	if m.Placement.ConsolePort == 0 || m.Presence == orchestrator.Absent {
		return nil, &api.Error{Code: api.CodeConflict, Next: "slipway show " + m.ID, Message: fmt.Sprintf("machine %s has no console", m.ID)}
	}
	place, err := consolePlaces(s.Config, s.Store)(ctx, m.Placement)
	if err != nil {
		return nil, err
	}
	password, err := s.reveal(ctx, m, kept{
		name: orchestrator.SealedConsole, sealed: m.ConsolePassword, what: "console password", verb: "read-console-password",
	}, reason)
	if err != nil {
		return nil, err
	}
	return api.ConsolePassword{Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Address: place.Host, Port: m.Placement.ConsolePort, Password: password.Reveal()}, nil
}
