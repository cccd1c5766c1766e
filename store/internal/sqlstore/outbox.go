package sqlstore

import (
	"context"

	"slipway/orchestrator"
)

// Unpublished implements orchestrator.Outbox: by id, which rises with each machine's Seq.
func (s *Store) Unpublished(ctx context.Context, limit int) ([]orchestrator.Event, error) {
	var events []orchestrator.Event
	err := s.view(ctx, "store.Unpublished", Stmt{
		SQL:  `SELECT ` + eventColumns + ` FROM outbox e WHERE e.published_at = 0 ORDER BY e.id LIMIT $1`,
		Args: []any{limit}, Scan: collectEvents(&events),
	})
	return events, err
}

// MarkPublished implements orchestrator.Outbox. Published events stay: an order that comes again is answered by its first one.
func (s *Store) MarkPublished(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	// As numbers, so that the primary key is used.
	return s.update(ctx, "store.MarkPublished", Stmt{
		SQL:  `UPDATE outbox SET published_at = {now} WHERE id IN (SELECT CAST(value AS BIGINT) FROM {list $1} AS chosen)`,
		Args: []any{text(ids)},
	})
}
