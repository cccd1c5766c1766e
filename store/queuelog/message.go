package queuelog

import (
	"encoding/json"
	"fmt"

	"slipway/store/internal/sqlstore"
	"slipway/workers/queue"
)

// columns are a message's, in each of the tables.
const columns = `message_id, type, message_key, content_type, headers, body`

// values are those of columns. No body is an empty one, no headers an empty object.
func values(m queue.Message) []any {
	headers := []byte(`{}`)
	if len(m.Headers) > 0 {
		headers, _ = json.Marshal(m.Headers) // strings always marshal
	}
	return []any{m.ID, m.Type, m.Key, m.ContentType, string(headers), append([]byte{}, m.Body...)}
}

// scan reads columns, and what follows them in the row.
func scan(row sqlstore.Row, m *queue.Message, more ...any) error {
	var headers string
	if err := row.Scan(append([]any{&m.ID, &m.Type, &m.Key, &m.ContentType, &headers, &m.Body}, more...)...); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(headers), &m.Headers); err != nil {
		return fmt.Errorf("headers of message %q: %w", m.ID, err)
	}
	return nil
}
