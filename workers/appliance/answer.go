package appliance

import (
	"fmt"
	"slices"

	"slipway/workers/appliance/apply"
)

// maxGeneration is more than a group comes to in a thousand years of changes: no member carries a newer one.
const maxGeneration = 1 << 40

// believe checks that an answer is to what was asked. An agent says what is live once it is done, so that its success for another generation,
// another state or another group is told from one for ours: it would count as carried what nobody has seen there.
func believe(asked apply.Request, a apply.Answer) error {
	switch a.Code {
	case apply.Applied, apply.Unchanged:
		switch {
		case asked.CheckOnly:
			return fmt.Errorf("it answers %q to a check", a.Code)
		case a.Generation != asked.Generation:
			return fmt.Errorf("it answers that generation %d is live, it was asked for %d", a.Generation, asked.Generation)
		case a.SHA256 != asked.SHA256:
			return fmt.Errorf("it answers that a state with the hash %.12q is live, generation %d has %.12q", a.SHA256, asked.Generation, asked.SHA256)
		}
	case apply.Checked:
		if !asked.CheckOnly {
			return fmt.Errorf("it answers %q to an apply", a.Code)
		}
	case apply.Newer:
		forgotten := len(asked.Known) > 0 && len(a.SHA256) == len(asked.SHA256) && a.SHA256 != asked.SHA256 && !slices.Contains(asked.Known, a.SHA256)
		if a.Generation <= asked.Generation && !forgotten || a.Generation > maxGeneration {
			return fmt.Errorf("it answers that generation %d is live and newer than %d", a.Generation, asked.Generation)
		}
	case apply.Moved:
		if asked.Expect == "" {
			return fmt.Errorf("it answers %q, and nothing was expected of it", a.Code)
		}
	case apply.Observed, apply.Surveyed:
		return fmt.Errorf("it answers %q to an apply", a.Code)
	}
	return nil
}
