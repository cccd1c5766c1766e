// Package hypervisor holds the backends of orchestrator.Hypervisor, one folder each.
//
// To write a backend, make a type with the port's methods and run hypervisortest.Exercise on it; it is done when the suite is green.
// What the suite asks for: a clone bears the machine, run and attempt in its name from its first moment, since a worker may die before it
// writes anything else; a tag is believed only beside the object's own id, since hypervisors copy tags into clones and snapshots; every
// verb looks before it acts and may be called again after any failure; nothing that lacks the machine's mark is changed or removed; and
// every error has a kind: Unknown when an act may have happened, Exhausted when there is no room, Conflict when the object changed or
// went, Permanent when no repetition helps.
package hypervisor
