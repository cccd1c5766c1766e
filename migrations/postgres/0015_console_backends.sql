-- +goose Up

-- What shows a pool's machines at their console ports: xvp hosts, or the gateways. A pool without a row is xvp's.
CREATE TABLE console_backends (
	pool text PRIMARY KEY,
	backend text NOT NULL CONSTRAINT console_backend CHECK (backend IN ('xvp', 'gateway')),
	changed_at bigint NOT NULL
);
-- How far each gateway that is running has come with a console group; a row that is not renewed counts no more.
CREATE TABLE gateways (
	group_id text NOT NULL,
	holder text NOT NULL,
	generation bigint NOT NULL,
	ports bigint NOT NULL,
	problem text NOT NULL DEFAULT '',
	until bigint NOT NULL,
	PRIMARY KEY (group_id, holder)
);
-- The console's password for the machine's customer: an armored age file, encrypted to the SSH keys.
ALTER TABLE machines ADD COLUMN console_age text NOT NULL DEFAULT '';
