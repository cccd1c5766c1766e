package postinstall

import "slipway/orchestrator"

// Exit codes of a job by which its scripts say what went wrong. 80 to 89 are kept for what no repetition changes.
const (
	ExitLicense  = 80 // an add-on, or Windows, has no license for this machine
	ExitRefused  = 81 // a script does not understand what it finds and has touched nothing
	ExitChecksum = 82 // what was fetched is not what was pinned
)

// Failure judges a job's exit code other than 0: its kind, and what it means in words, "" for a code that has no meaning of its own.
func Failure(exit int) (kind orchestrator.Kind, meaning string) {
	switch {
	case exit == ExitLicense:
		meaning = "no license"
	case exit == ExitRefused:
		meaning = "refused"
	case exit == ExitChecksum:
		meaning = "wrong checksum"
	}
	if exit >= 80 && exit <= 89 {
		return orchestrator.Permanent, meaning
	}
	return orchestrator.Transient, meaning
}
