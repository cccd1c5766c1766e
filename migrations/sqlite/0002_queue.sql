-- +goose Up

-- The embedded queue. An order that is handed out, or that rests, is nobody else's before until; token rises each time it changes hands.
CREATE TABLE queue_orders (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	message_id TEXT NOT NULL,
	type TEXT NOT NULL,
	message_key TEXT NOT NULL,
	content_type TEXT NOT NULL,
	headers TEXT NOT NULL,
	body BLOB NOT NULL,
	token INTEGER NOT NULL DEFAULT 0,
	until INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE queue_dead (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	message_id TEXT NOT NULL,
	type TEXT NOT NULL,
	message_key TEXT NOT NULL,
	content_type TEXT NOT NULL,
	headers TEXT NOT NULL,
	body BLOB NOT NULL,
	reason TEXT NOT NULL,
	at INTEGER NOT NULL
) STRICT;

-- Events by their number. The numbers have no gap and rise in the order of the commits, because whoever appends holds the row of
-- queue_tail until its commit: a listener that has seen a number has seen all before it.
CREATE TABLE queue_events (
	id INTEGER PRIMARY KEY,
	message_id TEXT NOT NULL,
	type TEXT NOT NULL,
	message_key TEXT NOT NULL,
	content_type TEXT NOT NULL,
	headers TEXT NOT NULL,
	body BLOB NOT NULL
) STRICT;

-- One row: the newest event's number.
CREATE TABLE queue_tail (
	one INTEGER PRIMARY KEY CONSTRAINT tail_alone CHECK (one = 1),
	event INTEGER NOT NULL
) STRICT;
INSERT INTO queue_tail (one, event) VALUES (1, 0);

-- What may be removed from the outbox, by age.
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at > 0 AND type <> 'slipway.run.accepted';
