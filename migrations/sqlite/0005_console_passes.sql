-- +goose Up

-- Who may look at which machine's screen: tokens that open once, and the sessions that they were exchanged for. Only hashes are kept.
CREATE TABLE console_passes (
	hash TEXT PRIMARY KEY,
	kind TEXT NOT NULL CONSTRAINT console_pass_kind CHECK (kind IN ('token', 'session')),
	machine TEXT NOT NULL REFERENCES machines (id),
	viewer TEXT NOT NULL,
	address TEXT NOT NULL DEFAULT '',
	expires_at INTEGER NOT NULL,
	used_at INTEGER NOT NULL DEFAULT 0,
	revoked_at INTEGER NOT NULL DEFAULT 0,
	created_at INTEGER NOT NULL
);
CREATE INDEX console_pass_by_machine ON console_passes (machine) WHERE revoked_at = 0;
CREATE INDEX console_pass_expiry ON console_passes (expires_at);
