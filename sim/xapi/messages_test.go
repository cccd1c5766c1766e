package xapi

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"slipway/orchestrator"
)

// Every message of the datamodel answers whatever its parameters are, as long as they have the right types: with a value of the XenAPI or
// with one of its errors.
func TestEveryMessageAnswers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 6 {
		s, err := New(Config{Password: orchestrator.NewSecret("secret"), Seed: uint64(round), Hosts: 2, DefaultOS: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.db.model.classes {
			for _, m := range c.messages {
				if m.full == "event.next" { // blocks until something happens
					continue
				}
				answerOnce(t, s, m, rng)
			}
		}
		s.Close()
	}
}

func answerOnce(t *testing.T, s *Server, m *message, rng *rand.Rand) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%s: panic: %v", m.full, p)
			panic(p)
		}
	}()
	var params []any
	if m.sessioned {
		session, err := s.dispatch(t.Context(), &request{method: "session.login_with_password", params: []any{"root", "secret"}})
		if err != nil {
			t.Fatal(err)
		}
		params = append(params, session)
	}
	for _, p := range m.params {
		params = append(params, s.example(m, p.typ, rng))
	}
	if m.full == "event.from" {
		params[3] = 0.0
	}
	_, err := s.dispatch(t.Context(), &request{method: m.full, params: params})
	var f *failure
	if err != nil && !errors.As(err, &f) {
		t.Errorf("%s: %v", m.full, err)
	}
}

// example makes a value of a type: for references mostly an object that is there.
func (s *Server) example(m *message, typ *typ, rng *rand.Rand) any {
	switch typ.kind {
	case kindRef:
		if c := s.db.class(typ.name); c != nil && rng.IntN(4) > 0 {
			s.mu.Lock()
			defer s.mu.Unlock()
			if all := s.db.all(typ.name); len(all) > 0 {
				return all[rng.IntN(len(all))].ref
			}
		}
		return []any{nullRef, "OpaqueRef:nope", ""}[rng.IntN(3)]
	case kindInt:
		return []int64{0, -1, 1, 2, 1 << 30, math.MaxInt64, math.MinInt64}[rng.IntN(7)]
	case kindFloat:
		return []float64{0, -1, 0.5, math.MaxFloat64}[rng.IntN(4)]
	case kindBool:
		return rng.IntN(2) == 0
	case kindEnum:
		for v := range s.db.model.enums[typ.name] {
			return v
		}
		return "x"
	case kindSet:
		return []any{s.example(m, typ.val, rng)}
	case kindMap:
		return map[string]any{"k": s.example(m, typ.val, rng)}
	case kindRecord:
		out := map[string]any{}
		for _, f := range m.class.fields {
			if f.qual != "ro" && rng.IntN(30) > 0 {
				out[f.name] = s.example(m, f.typ, rng)
			}
		}
		return out
	default:
		return []any{"", "0", "1", "x", "<provision><disk device='0'/></provision>", fmt.Sprint(rng.Uint64())}[rng.IntN(6)]
	}
}
