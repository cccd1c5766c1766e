-- +goose Up

-- What is held back for a while: subject is "pool:ID", "group:ID" or "member:GROUP/NAME".
CREATE TABLE holds (
	subject TEXT NOT NULL,
	kind TEXT NOT NULL,
	actor TEXT NOT NULL,
	reason TEXT NOT NULL,
	since INTEGER NOT NULL,
	until INTEGER NOT NULL DEFAULT 0,
	CONSTRAINT hold_key PRIMARY KEY (subject, kind)
);

-- The workers that said lately that they are there, and whether they were told to drain.
CREATE TABLE workers (
	holder TEXT PRIMARY KEY,
	version TEXT NOT NULL,
	started_at INTEGER NOT NULL,
	seen_at INTEGER NOT NULL,
	held INTEGER NOT NULL DEFAULT 0,
	idle INTEGER NOT NULL DEFAULT 0,
	drained_at INTEGER NOT NULL DEFAULT 0,
	drained_by TEXT NOT NULL DEFAULT '',
	drain_reason TEXT NOT NULL DEFAULT ''
);
