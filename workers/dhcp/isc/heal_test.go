package isc_test

import (
	"context"
	"testing"

	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/dhcp/isc"
)

// dying is the real unit in an agent that dies when it gets to the named call, before or after it.
type dying struct {
	*isc.Unit
	at string
}

type died struct{}

func (d dying) die(at string) {
	if d.at == at {
		panic(died{})
	}
}

func (d dying) Check(ctx context.Context, dir string) error {
	defer d.die("checked")
	return d.Unit.Check(ctx, dir)
}

func (d dying) Reload(ctx context.Context, change agent.Change) error {
	d.die("placed")
	defer d.die("reloaded")
	return d.Unit.Reload(ctx, change)
}

func (d dying) Prove(ctx context.Context) error {
	err := d.Unit.Prove(ctx)
	if err == nil { // not in the question whether anything has to be done
		d.die("proven")
	}
	return err
}

// TestNextApplyHealsARealServer: whatever the agent was doing when it died, the next apply ends with dhcpd serving what it asked for.
func TestNextApplyHealsARealServer(t *testing.T) {
	for _, at := range []string{"checked", "placed", "reloaded", "proven"} {
		t.Run(at, func(t *testing.T) {
			s := newSite(t, strict)
			s.apply(s.request(host(1)), apply.Applied)
			unit, err := isc.New(s.config)
			if err != nil {
				t.Fatal(err)
			}
			mortal, err := agent.New(agent.Config{StateDir: s.path("state"), Units: map[string]agent.Settings{"dhcp": {Driver: isc.Driver}}},
				agent.Registry{isc.Driver: func(agent.Settings) (agent.Unit, error) { return dying{unit, at}, nil }}, nil)
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if _, ok := recover().(died); !ok {
						t.Error("it did not die")
					}
				}()
				mortal.Apply(t.Context(), s.request(host(1), host(2)))
			}()
			broken := s.request(host(1), host(3)) // first one that dhcpd refuses: what is live then must be whole
			broken.Files[0].Content += "host x {\n"
			broken.SHA256 = apply.Sum(broken.Files)
			answer := s.apply(broken, apply.Culprit)
			live := int64(2) // all files were in place: finished
			if at == "checked" {
				live = 1
			}
			if answer.Generation != live {
				t.Errorf("%+v, want generation %d live", answer, live)
			}
			s.apply(s.request(host(1), host(4)), apply.Applied)
			for n, served := range map[int]bool{1: true, 4: true, 2: false} {
				if got := s.lease(s.client(host(n).MAC)); (got == host(n).Address) != served {
					t.Errorf("host %d got %s", n, got)
				}
			}
		})
	}
}
