package sqlstore

import (
	"context"
	"time"

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

// MarkPublished implements orchestrator.Outbox. Published events stay for a while: see Prune.
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

const (
	keepPublished = 7 * 24 * time.Hour  // long enough to look at what a panel says that it never heard
	pruneAtOnce   = 10_000              // what one transaction removes
	keepAsked     = 90 * 24 * time.Hour // as long as an appliance may be away and still be known
)

// Prune implements orchestrator.Operators. Rows that somebody else works on are left for the next time. The type is spelled out, so that the
// index outbox_published is used.
func (s *Store) Prune(ctx context.Context) (int, error) {
	n := 0
	err := s.update(ctx, "store.Prune", Stmt{
		SQL: `DELETE FROM asked_states WHERE at <= {now} - CAST($1 AS BIGINT)
				AND sha256 NOT IN (SELECT m.sha256 FROM members m WHERE m.group_id = asked_states.group_id)`,
		Args: []any{keepAsked.Microseconds()},
	}, Stmt{
		SQL: `DELETE FROM console_passes WHERE hash IN (SELECT hash FROM console_passes
				WHERE expires_at <= {now} - CAST($1 AS BIGINT) ORDER BY expires_at LIMIT $2 {skip})`,
		Args: []any{keepPasses.Microseconds(), pruneAtOnce},
	}, Stmt{
		SQL: `DELETE FROM outbox WHERE id IN (SELECT id FROM outbox
				WHERE published_at > 0 AND type <> '` + orchestrator.EventAccepted + `' AND published_at <= {now} - CAST($1 AS BIGINT)
				ORDER BY published_at LIMIT $2 {skip}) RETURNING id`,
		Args: []any{keepPublished.Microseconds(), pruneAtOnce}, Scan: counted(&n),
	})
	return n, err
}
