// Package agent is the far side of every change to an appliance: `slipway agent apply` reads one apply.Request, makes one unit's whole
// desired state live, and answers with what is live then.
//
// An apply is: lock, compare fence and generation, put an interrupted apply right, count what would go, write the candidate beside the
// target, let the real tool judge it, keep the old files, journal, rename, reload, read back, record. Whatever fails after the first
// rename brings the old files back. What is on disk at each moment is enough for the next apply to go on:
//
//	<state>/<unit>/lock         flock, one apply at a time
//	<state>/<unit>/state.json   the highest fence seen, and what was last proven live
//	<state>/<unit>/journal.json there while targets may be a mixture: what is coming, and what was there
//	<state>/<unit>/backup/      the contents that the journal names, by their SHA-256
//	<dir of target>/.slipway-…  candidates and files about to be renamed
//
// So a process killed at any point leaves an appliance whose next apply first finishes the interrupted one, when all of its files are in
// place, or else undoes it.
package agent
