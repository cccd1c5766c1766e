package namestest_test

import (
	"testing"

	"slipway/orchestrator/orchestratortest"
	"slipway/workers/names/namestest"
)

// The harness's DNS keeps what it promises the steps.
func TestWorld(t *testing.T) {
	w := orchestratortest.NewWorld(1)
	namestest.Exercise(t, namestest.World{
		Names: w, Pool: "pool-a", Zone: "vm.example.net", ReverseZone: "100.51.198.in-addr.arpa",
		Put:   func(_ *testing.T, name, value string) { w.PutName(name, value) },
		Holds: func(_ *testing.T, name string) string { return w.Name(name) },
	})
}
