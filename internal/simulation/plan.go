package simulation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Plan is one simulation: what is ordered, and what goes wrong. The lengths of calls and all else that chance decides come from the seed.
type Plan struct {
	Seed   uint64  `json:"seed"`
	Site   Site    `json:"site"`
	Orders []Order `json:"orders"`
	Faults []Fault `json:"faults"`
}

// Site says what kind of place it is.
type Site struct {
	Workers int `json:"workers"`
	// Tight sites have two addresses and two console ports, so that machines wait for each other.
	Tight bool `json:"tight,omitempty"`
	// Elsewhere: the network's addresses are served by others, the machines are routed.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Order is one message of the panel about a machine, named by tenant and name.
type Order struct {
	At      Span   `json:"at"`
	Process string `json:"process"`
	Tenant  string `json:"tenant"`
	Name    string `json:"name"`
}

// Fault is one thing that goes wrong. A fault of a call strikes at the first call from the Nth of its class on that it fits; another at the
// first moment from At on at which it can. What never came to strike does not count.
type Fault struct {
	Kind string `json:"kind"`
	// Call makes it wait for the Nth call of this name: so a plan that is kept says what it is about, and outlives changes elsewhere.
	Call string `json:"call,omitempty"`
	Nth  int    `json:"nth,omitempty"`
	At   Span   `json:"at,omitempty"`
	For  Span   `json:"for,omitempty"` // how long it lasts, where it does
	On   int    `json:"on,omitempty"`  // chooses among what it may strike: a worker, an appliance, an order, a verb
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.Kind)
	if f.Nth > 0 {
		fmt.Fprintf(&b, " at call %d %s", f.Nth, f.Call)
	} else {
		fmt.Fprintf(&b, " at %s", time.Duration(f.At))
	}
	if f.For > 0 {
		fmt.Fprintf(&b, " for %s", time.Duration(f.For))
	}
	if f.On > 0 {
		fmt.Fprintf(&b, " on %d", f.On)
	}
	return b.String()
}

// Span is a duration that reads "1m30s" in a file.
type Span time.Duration

// MarshalJSON implements json.Marshaler.
func (s Span) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (s *Span) UnmarshalJSON(text []byte) error {
	var word string
	if err := json.Unmarshal(text, &word); err != nil {
		return err
	}
	d, err := time.ParseDuration(word)
	*s = Span(d)
	return err
}

// horizon is when the last fault begins; what one begins has an end, and after all of them everything must come right.
const horizon = 5 * time.Minute

// NewPlan makes the plan of a seed.
func NewPlan(seed uint64) Plan {
	dice := rand.New(rand.NewPCG(seed, 0x51177a4))
	span := func(least, most time.Duration) Span {
		return Span(least + time.Duration(dice.Int64N(int64(most-least))))
	}
	p := Plan{Seed: seed, Site: Site{Workers: 2 + dice.IntN(3), Tight: dice.IntN(4) == 0, Elsewhere: dice.IntN(5) == 0}}

	owners := []Order{{Tenant: "acme", Name: "web-1"}, {Tenant: "umbrella", Name: "web-1"}, {Tenant: "acme", Name: "web-2"}, {Tenant: "umbrella", Name: "web-2"}}
	dice.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
	for _, o := range owners[:2+dice.IntN(2)] {
		o.Process, o.At = "install", span(0, time.Minute)
		p.Orders = append(p.Orders, o)
		for _, process := range []string{"reconfigure", "suspend", "unsuspend"} {
			if dice.IntN(3) == 0 {
				o.Process, o.At = process, o.At+span(20*time.Second, 100*time.Second)
				p.Orders = append(p.Orders, o)
			}
		}
		if dice.IntN(10) < 6 {
			o.Process, o.At = "uninstall", o.At+span(time.Second, 3*time.Minute)
			p.Orders = append(p.Orders, o)
			if dice.IntN(2) == 0 {
				o.Process, o.At = "install", o.At+span(20*time.Second, 3*time.Minute)
				p.Orders = append(p.Orders, o)
			}
		}
	}

	var weighted []kind
	for _, k := range kinds() {
		for range k.weight {
			weighted = append(weighted, k)
		}
	}
	for range 10 + dice.IntN(12) {
		k := weighted[dice.IntN(len(weighted))]
		f := Fault{Kind: k.name, On: dice.IntN(8)}
		if k.calls > 0 {
			f.Nth = 1 + dice.IntN(k.calls)
		} else {
			f.At = span(0, horizon)
		}
		if k.most > 0 {
			f.For = span(k.least, k.most)
		}
		p.Faults = append(p.Faults, f)
	}
	return p
}

// without is the plan with some faults left out.
func (p Plan) without(from, to int) Plan {
	p.Faults = slices.Concat(p.Faults[:from], p.Faults[to:])
	return p
}
