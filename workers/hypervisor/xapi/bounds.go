package xapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"slipway/orchestrator"
)

// Limits on what a server may make us hold. The records of 7,000 VMs are about 35 MB, a task's event is about 1 KB, and no other answer that
// is asked for comes to 100 KB.
const (
	maxAll      = 64 << 20 // of a class's records, in bytes
	maxEvents   = 16 << 20 // of an answer to event.from
	maxAnswer   = 4 << 20  // of any other
	maxRecords  = 1 << 16  // of a class
	maxFollowed = 10_000   // tasks that are remembered as pending, and that one batch of events may tell of

	maxErrorParams = 16
	maxErrorParam  = 4096
)

// limit is how long the answer to a call may be, in bytes.
func limit(method string) int64 {
	_, verb, _ := strings.Cut(method, ".")
	switch {
	case strings.HasPrefix(verb, "get_all_records"):
		return maxAll
	case method == "event.from":
		return maxEvents
	}
	return maxAnswer
}

const (
	// sparse is what a value takes in an answer of xapi's, in bytes, at the least: on average it is eleven.
	sparse = 6
	// small answers are not looked at, whatever they are made of.
	small = 64 << 10
)

// dense tells an answer that is made of next to nothing but commas and brackets: each of its values would take ten times as much memory as
// it does on the wire.
func dense(raw []byte) bool {
	if len(raw) <= small {
		return false
	}
	marks, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ':' || c == '[' || c == '{'):
			marks++
		}
	}
	return marks > len(raw)/sparse
}

// unfit says why an answer that is JSON is none that xapi gives. It quotes nothing that cannot be printed.
type unfit string

func (u unfit) Error() string { return string(u) }

// records are a class's objects by reference. Unlike a map it takes no null for an empty one, neither for a record nor for all of them: a pool
// that is thought to have nothing would have its machines taken for gone.
type records[T any] map[Ref]T

// UnmarshalJSON implements json.Unmarshaler.
func (r *records[T]) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return unfit("it is no map of records")
	}
	all := records[T]{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // in a map it is one
		ref := Ref(name)
		if !ref.valid() || ref.IsNull() {
			return unfit(fmt.Sprintf("a record is under %q, which is no reference", printable(name)))
		}
		if len(all) == maxRecords {
			return unfit(fmt.Sprintf("it has more than %d records", maxRecords))
		}
		var record *T
		if err := decoder.Decode(&record); err != nil {
			return err
		}
		if record == nil {
			return unfit("a record in it is null")
		}
		all[ref] = *record
	}
	*r = all
	return nil
}

// errNotWhole is a list of VMs that no pool gives: every host has its control domain among them.
var errNotWhole = errors.New("the pool's list of VMs has no control domain: it is not whole, and what is missing in it is not gone")

// wholeList refuses such a list: machines that are not in it would be taken for gone, and their addresses given to others.
func wholeList(vms records[vmRecord]) error {
	for _, rec := range vms {
		if rec.ControlDomain {
			return nil
		}
	}
	return orchestrator.E("xapi", orchestrator.Transient, errNotWhole)
}

// amount is a number of bytes that can be added to others: not negative, and less than a host or disk will have for long.
func amount(n int64) int64 { return min(max(n, 0), 1<<46) }
