package agent

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
)

// Unit drives one kind of server on this appliance. The agent calls it under the unit's lock, never concurrently, in this order:
// Check on a candidate directory, then (after the swap) Reload, then Prove; after a failed Reload or Prove the old files are put back and
// Reload and Prove are called again. A Unit keeps no state of its own between calls: it may be killed anywhere.
//
// How to write one: map the request's file names to their places (Targets), judge a candidate with the real tool (Check), make what lies
// in the targets live (Reload), and look at the live thing, not at the files alone, to say that it is (Prove).
type Unit interface {
	// Targets maps the file names of a request to where they live. A request with a file missing or one too many is refused.
	Targets() map[string]Target
	// Check judges the candidate in dir, which holds the request's files under their own names; it may write there. A refusal is a *Fault;
	// any other error means that the tool could not judge, and one that wraps exec.ErrNotFound that the tool is not installed.
	Check(ctx context.Context, dir string) error
	// Reload makes the content of the targets live.
	Reload(ctx context.Context, change Change) error
	// Prove is nil when what runs is what lies in the targets.
	Prove(ctx context.Context) error
}

// RowCounter is an optional part of a Unit. CountRows counts the machines in a state's files (by the request's names; a file that is not
// there is absent from the map), so that the shrink guard rests on what is live and not on numbers alone; negative when it cannot tell.
type RowCounter interface {
	CountRows(files map[string][]byte) int
}

// Cutter is an optional part of a Unit whose clients keep connections that a new state would not let in. Cuts lists the addresses whose
// connections end when the state goes from one to another (files by the request's names; one that is not there is absent). The appliance
// compares what it has itself: nobody else knows how long it was away. It takes the place of the request's own list.
type Cutter interface {
	Cuts(from, to map[string][]byte) ([]netip.Addr, error)
}

// Observer is an optional part of a Unit whose Prove has an effect: Observe answers the same question and has none. Of a Unit without it
// Prove is asked.
type Observer interface {
	Observe(ctx context.Context) error
}

// Target is one file's place.
type Target struct {
	Path string      // absolute; a symbolic link there is refused
	Mode fs.FileMode // permission bits; 0 means 0o644
}

// Change goes with a Reload.
type Change struct {
	// Cut lists addresses whose connections end once the new state is live.
	Cut []netip.Addr
	// Restoring is true when the old files have been put back after a failure.
	Restoring bool
}

// Fault is the real tool's refusal of a candidate.
type Fault struct {
	File    string // the request's file name; "" when the tool named none
	Line    int    // from 1; 0 when the tool named none
	Message string // the tool's own line, control characters removed
}

func (f *Fault) Error() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s line %d: %s", f.File, f.Line, f.Message)
	}
	return f.Message
}
