-- +goose Up

-- What is held back for a while: subject is "pool:ID", "group:ID" or "member:GROUP/NAME".
CREATE TABLE holds (
	subject text NOT NULL,
	kind text NOT NULL,
	actor text NOT NULL,
	reason text NOT NULL,
	since bigint NOT NULL,
	until bigint NOT NULL DEFAULT 0,
	CONSTRAINT hold_key PRIMARY KEY (subject, kind)
);

-- The workers that said lately that they are there, and whether they were told to drain.
CREATE TABLE workers (
	holder text PRIMARY KEY,
	version text NOT NULL,
	started_at bigint NOT NULL,
	seen_at bigint NOT NULL,
	held bigint NOT NULL DEFAULT 0,
	idle bigint NOT NULL DEFAULT 0,
	drained_at bigint NOT NULL DEFAULT 0,
	drained_by text NOT NULL DEFAULT '',
	drain_reason text NOT NULL DEFAULT ''
);
