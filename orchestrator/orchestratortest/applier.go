package orchestratortest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"slipway/orchestrator"
)

// Store is what the harness needs: every orchestrator.Store is one.
type Store = orchestrator.Store

// Apply brings every group's desired state to the world's appliances and confirms it, as the appliances' controllers do.
func (w *World) Apply(ctx context.Context, store Store) error {
	groups, err := store.Groups(ctx)
	if err != nil {
		return err
	}
	for _, known := range groups {
		if known.Applied >= known.Generation {
			continue
		}
		lease, ok, err := store.AcquireLease(ctx, "group:"+known.ID, "applier", time.Hour)
		if err != nil || !ok {
			return fmt.Errorf("lease of group %s: %t, %w", known.ID, ok, err)
		}
		group, entries, err := store.Entries(ctx, known.ID)
		if err != nil {
			return err
		}
		bad := map[string]string{}
		carried := map[string]json.RawMessage{}
		for _, e := range entries {
			if e.Removed {
				continue
			}
			if w.Culprit != nil {
				if line := w.Culprit(e); line != "" {
					bad[e.Machine] = line
					if e.Live != nil {
						carried[e.Machine] = e.Live
					}
					continue
				}
			}
			carried[e.Machine] = e.Body
		}
		w.live[group.ID] = carried
		if err := store.Confirm(ctx, group.ID, lease.Fence, group.Generation, bad); err != nil {
			return err
		}
		w.Effects["apply "+group.ID]++
	}
	return nil
}
