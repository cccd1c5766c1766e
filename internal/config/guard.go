package config

import (
	"fmt"
	"time"

	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
)

// Guard bounds how many runs may begin in a pool within a time that take a finished machine from its customer. What is beyond waits for an
// operator's word.
type Guard struct {
	Window      time.Duration `yaml:"window"`      // default 10m
	Uninstalls  int           `yaml:"uninstalls"`  // default 100; below 0 is any number
	Suspensions int           `yaml:"suspensions"` // default 250; below 0 is any number
}

func (g Guard) validate(add func(field, problem, fix string)) {
	if g.Window < time.Second || g.Window > 24*time.Hour {
		add("guard.window", fmt.Sprintf("%s is out of range", g.Window), "use 10m, and 1s to 24h")
	}
	for _, n := range []struct {
		field string
		value int
		usual string
	}{{"guard.uninstalls", g.Uninstalls, "100"}, {"guard.suspensions", g.Suspensions, "250"}} {
		if n.value == 0 {
			add(n.field, "is 0, and none would begin without an operator's word", "use "+n.usual+", 1 for nearly none, or -1 for any number")
		}
	}
}

// Limits are the bounds by process; one that has none is not in it.
func (g Guard) Limits() map[string]int {
	limits := map[string]int{uninstall.Name: g.Uninstalls, suspend.Name: g.Suspensions}
	for process, n := range limits {
		if n <= 0 {
			delete(limits, process)
		}
	}
	return limits
}
