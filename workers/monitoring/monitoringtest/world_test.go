package monitoringtest_test

import (
	"testing"

	"slipway/orchestrator/orchestratortest"
	"slipway/workers/monitoring/monitoringtest"
)

// The harness's monitoring keeps what it promises the steps.
func TestWorld(t *testing.T) { monitoringtest.Exercise(t, orchestratortest.NewWorld(1)) }
