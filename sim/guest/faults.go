package guest

import "io"

// Fault is what goes wrong with one command.
type Fault int

const (
	NoFault    Fault = iota
	DropBefore       // the connection breaks before the command begins
	DropAfter        // the command runs to its end, and its answer is lost
	Hang             // the guest falls silent: the connection stays open and nothing is answered
)

// Faults go wrong on purpose. The zero value is a healthy guest.
type Faults struct {
	// Mute: connections are accepted and nothing is ever said.
	Mute bool
	// RefuseLogins is how many logins fail before one succeeds: the account is not there yet.
	RefuseLogins int
	// Command decides about each command by its last words ("upload run-1"); nil is NoFault. It must be safe for concurrent use.
	Command func(words string) Fault
	// Answer takes a command, by its last words, out of the guest's hands: what it returns is called in its place, writes what it likes and
	// gives the exit code; nil lets the command run. It must be safe for concurrent use.
	Answer func(words string) func(stdout, stderr io.Writer) (exit int)
	// Script returns the exit code with which a script (by its base name) fails instead of running; 0 lets it run. nil is all 0. It must
	// be safe for concurrent use.
	Script func(name string) int
}

// SetFaults replaces what goes wrong from now on.
func (g *Guest) SetFaults(f Faults) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = f
}

func (g *Guest) currentFaults() Faults {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.faults
}

// refuseLogin uses up one of the logins that shall fail.
func (g *Guest) refuseLogin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.faults.RefuseLogins == 0 {
		return false
	}
	g.faults.RefuseLogins--
	return true
}
