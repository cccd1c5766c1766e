-- +goose Up

-- Who may look at which machine's screen: tokens that open once, and the sessions that they were exchanged for. Only hashes are kept.
CREATE TABLE console_passes (
	hash text PRIMARY KEY,
	kind text NOT NULL CONSTRAINT console_pass_kind CHECK (kind IN ('token', 'session')),
	machine text NOT NULL REFERENCES machines (id),
	viewer text NOT NULL,
	address text NOT NULL DEFAULT '',
	expires_at bigint NOT NULL,
	used_at bigint NOT NULL DEFAULT 0,
	revoked_at bigint NOT NULL DEFAULT 0,
	created_at bigint NOT NULL
);
CREATE INDEX console_pass_by_machine ON console_passes (machine) WHERE revoked_at = 0;
CREATE INDEX console_pass_expiry ON console_passes (expires_at);
