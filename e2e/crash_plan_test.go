package e2e

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The victims of the crash test. An agent is killed twice over: one between the swap of dhcpd's file and dhcpd's start, and one anywhere.
const (
	victimWorker   = "worker"
	victimBroker   = "broker"
	victimDatabase = "database"
	victimXenAPI   = "XenAPI master"
	victimSwap     = "agent in swap"
	victimAgent    = "agent"
	victimSSH      = "SSH"
)

var victims = []string{victimWorker, victimBroker, victimDatabase, victimXenAPI, victimSwap, victimAgent, victimSSH}

// strike is one kill of a plan.
type strike struct {
	victim  string
	ordered int           // installs that have been ordered before it
	after   time.Duration // what is waited first
	down    time.Duration // how long the victim stays away
	overlap bool          // the next strike comes before it is back
	one     int           // of several workers, pools or appliances, modulo their number
	into    time.Duration // how far into an apply an agent is killed
}

// planCrash is the same for the same seed: every victim at least once, then as it comes, one for four installs. Who dies often in reality
// dies often here.
func planCrash(seed uint64, installs int) (plan []strike, leave []int) {
	rng := rand.New(rand.NewPCG(seed, 0xc4a54))
	order := slices.Clone(victims)
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	often := []string{victimWorker, victimWorker, victimWorker, victimDatabase, victimDatabase, victimXenAPI, victimXenAPI, victimSSH, victimSSH, victimAgent, victimAgent, victimSwap, victimBroker}
	for range installs / 4 {
		order = append(order, often[rng.IntN(len(often))])
	}
	for i, victim := range order {
		s := strike{
			victim: victim, ordered: max(1, installs*(i+1)/len(order)), after: time.Duration(rng.Int64N(int64(1500 * time.Millisecond))), down: time.Duration(rng.Int64N(int64(2 * time.Second))),
			one: rng.IntN(1000), into: time.Duration(rng.Int64N(int64(60 * time.Millisecond))),
		}
		agents := []string{victimSwap, victimAgent} // one is caught in an apply, for which everybody else must be there
		two := i > 0 && plan[i-1].overlap           // are away already
		if chance := rng.IntN(3) == 0; i+1 < len(order) && !two && order[i+1] != victim && !slices.Contains(agents, victim) && !slices.Contains(agents, order[i+1]) {
			s.overlap = chance
		}
		plan = append(plan, s)
	}
	for _, n := range rng.Perm(max(1, installs*4/5))[:max(4, installs/4)] {
		leave = append(leave, n+1)
	}
	slices.Sort(leave)
	return plan, leave
}

func TestCrashPlan(t *testing.T) {
	for seed := range uint64(100) {
		plan, leave := planCrash(seed, 12)
		again, leaveAgain := planCrash(seed, 12)
		if diff := cmp.Diff(plan, again, cmp.AllowUnexported(strike{})) + cmp.Diff(leave, leaveAgain); diff != "" {
			t.Fatalf("seed %d has two plans:\n%s", seed, diff)
		}
		struck := map[string]bool{}
		for i, s := range plan {
			struck[s.victim] = true
			if s.overlap && (plan[i+1].victim == s.victim || plan[i+1].overlap) {
				t.Errorf("seed %d: kill %d meets somebody who is away", seed, i+2)
			}
		}
		if len(struck) != len(victims) || len(leave) != 4 || plan[len(plan)-1].ordered != 12 {
			t.Errorf("seed %d: %v, leave %v, %d ordered at the end", seed, struck, leave, plan[len(plan)-1].ordered)
		}
	}
}
