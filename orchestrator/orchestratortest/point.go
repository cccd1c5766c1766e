package orchestratortest

import (
	"fmt"
	"slices"
)

// Moment is where in a call something goes wrong.
type Moment string

const (
	Before Moment = "before" // nothing of the effect exists
	During Moment = "during" // a part of it exists; only calls that have parts pass this moment
	After  Moment = "after"  // all of it exists, and the answer is on its way
)

// Point is one moment of one call. Nth counts the calls of that name from 1, so that a point names the same moment in every run of one
// history.
type Point struct {
	Call   string
	Nth    int
	Moment Moment
}

// CommitCall is the Call of a commit's points.
const CommitCall = "commit"

func (p Point) String() string { return fmt.Sprintf("%s_%d_%s", p.Call, p.Nth, p.Moment) }

// The calls that there are: a new one that is in no list fails the harness.
var (
	hypervisorEffects = []string{
		"StartClone", "ShapeMachine", "StartMachine", "StopMachine", "DestroyMachine", "NameMachine", "ForgetTask", "ClaimMachine", "ReleaseMachine",
	}
	hypervisorLooks = []string{"FindMachine", "PendingClones", "ObserveTask", "FindStranger"}
	registryEffects = []string{"EnsureName", "RemoveName", "EnsureHost", "RemoveHost"}
	registryLooks   = []string{"ObserveName", "ObserveHost"}
	otherEffects    = []string{CommitCall, "EnsureJob", "Leave", "ChangeGuest", "Reserve"}
	otherLooks      = []string{"Probe", "ObserveJob", "Inspect", "TryPort", "Console", "NoConsole"}
)

// IsEffect reports whether the call changes the world or the store; the others only look.
func (p Point) IsEffect() bool {
	return slices.Contains(hypervisorEffects, p.Call) || slices.Contains(registryEffects, p.Call) || slices.Contains(otherEffects, p.Call)
}

// IsRegistry reports whether the call goes to the DNS or to monitoring.
func (p Point) IsRegistry() bool {
	return slices.Contains(registryEffects, p.Call) || slices.Contains(registryLooks, p.Call)
}

// IsHypervisor reports whether the call goes to the hypervisor.
func (p Point) IsHypervisor() bool {
	return slices.Contains(hypervisorEffects, p.Call) || slices.Contains(hypervisorLooks, p.Call)
}

func (p Point) isKnown() bool {
	return p.IsEffect() || p.IsHypervisor() || p.IsRegistry() || slices.Contains(otherLooks, p.Call)
}

// Crash is what a Site's worker dies of: it panics with it, and the worker that comes after knows nothing of what the dead one had in hand.
type Crash struct{ At Point }

func (c Crash) Error() string { return "the worker dies at " + c.At.String() }
