package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hold keeps work from something for a while: runs wait in front of the rows that act on it, visibly and without using up their budget, and
// go on when it is lifted.
type Hold struct {
	Subject Subject
	Kind    HoldKind
	Actor   string // who put it there, "uid:name"
	Reason  string
	Since   time.Time
	Until   time.Time // when it ends by itself, by the database's clock; zero is never
}

// HoldKind says what a hold is for. A subject has one hold of each kind at most.
type HoldKind string

// HoldMaintenance is an operator's: somebody works on the subject.
const HoldMaintenance HoldKind = "maintenance"

// String says what is held and why, as operators and waiting runs are told.
func (h Hold) String() string {
	of := " of "
	if _, halts := h.Halts(); halts {
		of = " in "
	}
	text := fmt.Sprintf("%s%s%s since %s by %s: %s", h.Kind, of, h.Subject.Words(), h.Since.UTC().Format("2006-01-02 15:04 UTC"), h.Actor, h.Reason)
	if !h.Until.IsZero() {
		text += h.Until.UTC().Format(" (until 2006-01-02 15:04 UTC)")
	}
	return text
}

// Subject names what a hold is about: "pool:ID", "group:ID" or "member:GROUP/NAME".
type Subject string

func PoolSubject(id string) Subject            { return Subject("pool:" + id) }
func GroupSubject(id string) Subject           { return Subject("group:" + id) }
func MemberSubject(group, name string) Subject { return Subject("member:" + group + "/" + name) }

// Words is the subject for people: "pool a", "group dhcp-a", "member dhcp-a/one".
func (s Subject) Words() string { return strings.Replace(string(s), ":", " ", 1) }

// Pool is the pool's id, "" for another subject.
func (s Subject) Pool() string { return s.of("pool:") }

// Group is the group's id, "" for another subject.
func (s Subject) Group() string { return s.of("group:") }

func (s Subject) of(kind string) string {
	if id, ok := strings.CutPrefix(string(s), kind); ok {
		return id
	}
	return ""
}

// WakeHold is the wake key of those who wait for a hold's end.
func WakeHold(s Subject) string { return "hold:" + string(s) }

// Holds is where holds are kept.
type Holds interface {
	// Holds lists those in force by the database's clock, by subject.
	Holds(ctx context.Context) ([]Hold, error)
	// PutHold sets a hold, or gives the one that is there another reason and end; Since is the database's clock when it is new. Recorded.
	PutHold(ctx context.Context, h Hold) error
	// LiftHold ends it, and what waited for it is due; ErrNotFound when there is none. Recorded.
	LiftHold(ctx context.Context, s Subject, kind HoldKind, actor, reason string) error
	// EndHolds removes those whose time has come, with the same effect, and returns them. Recorded as ended by itself.
	EndHolds(ctx context.Context) ([]Hold, error)
}

// Gate tells the engine what is held. An answer may be a second or two old. Safe for concurrent use.
type Gate interface {
	// Held returns the first of the subjects' holds, ok false when none is held. An error means that the store is away.
	Held(ctx context.Context, subjects []Subject) (h Hold, ok bool, err error)
}

// Uses says what of the world a row's Do and Undo act on.
type Uses uint8

const (
	// UsesPool rows call the hypervisor, or need the machine's VM to run.
	UsesPool Uses = 1 << iota
	// UsesDHCP, UsesFirewall and UsesConsole rows wait for the machine's group of that unit.
	UsesDHCP
	UsesFirewall
	UsesConsole
)

// subjects are what a row uses, of this machine.
func (u Uses) subjects(m *Machine) []Subject {
	var subjects []Subject
	for _, one := range []struct {
		use     Uses
		id      string
		subject func(string) Subject
	}{
		{UsesPool, cmp.Or(m.Placement.Pool, m.PoolWanted), PoolSubject},
		{UsesDHCP, m.Placement.DHCP, GroupSubject},
		{UsesFirewall, m.Placement.Firewall, GroupSubject},
		{UsesConsole, m.Placement.Console, GroupSubject},
	} {
		if u&one.use != 0 && one.id != "" {
			subjects = append(subjects, one.subject(one.id))
		}
	}
	return slices.Compact(subjects)
}

// holdPoll is how soon a held run is looked at again when nobody wakes it.
const holdPoll = time.Minute

// isHeld puts the run down when what its row acts on is held.
func (t *tick) isHeld(ctx context.Context, s *Step) (held bool, err error) {
	subjects := t.row.Uses.subjects(s.Machine)
	if t.gate == nil || len(subjects) == 0 {
		return false, nil
	}
	hold, held, err := t.gate.Held(ctx, subjects)
	if err != nil || !held {
		return false, err
	}
	c := t.newCommit()
	c.Run.Kind, c.Run.StepSince = "", t.now // the budget is for getting on, not for standing still on somebody's word
	at := t.now.Add(holdPoll)
	if !hold.Until.IsZero() && hold.Until.Before(at) {
		at = hold.Until
	}
	t.putDown(&c, s, at, WakeHold(hold.Subject), "waits for "+hold.String())
	_, err = t.settle(ctx, s, c)
	return true, err
}
