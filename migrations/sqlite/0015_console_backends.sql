-- +goose Up

-- What shows a pool's machines at their console ports: xvp hosts, or the gateways. A pool without a row is xvp's.
CREATE TABLE console_backends (
	pool TEXT PRIMARY KEY,
	backend TEXT NOT NULL CONSTRAINT console_backend CHECK (backend IN ('xvp', 'gateway')),
	changed_at INTEGER NOT NULL
);
-- How far each gateway that is running has come with a console group; a row that is not renewed counts no more.
CREATE TABLE gateways (
	group_id TEXT NOT NULL,
	holder TEXT NOT NULL,
	generation INTEGER NOT NULL,
	ports INTEGER NOT NULL,
	problem TEXT NOT NULL DEFAULT '',
	until INTEGER NOT NULL,
	PRIMARY KEY (group_id, holder)
);
-- The console's password for the machine's customer: an armored age file, encrypted to the SSH keys.
ALTER TABLE machines ADD COLUMN console_age TEXT NOT NULL DEFAULT '';
