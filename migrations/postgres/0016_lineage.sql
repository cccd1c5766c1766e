-- +goose Up

-- The states that were ever asked for, before they were: an appliance that carries another one has it from a life of the database that was not
-- restored. sha256 is of the rendered files.
CREATE TABLE asked_states (
	group_id text NOT NULL,
	sha256 text NOT NULL,
	at bigint NOT NULL,
	PRIMARY KEY (group_id, sha256)
);
INSERT INTO asked_states (group_id, sha256, at) SELECT DISTINCT group_id, sha256, 0 FROM members WHERE sha256 <> '';

-- A pool is unread from a worker's start until it is read again, and strange while there are VMs in it with our tag whose machines are unknown.
ALTER TABLE pools ADD COLUMN unread bigint NOT NULL DEFAULT 0;
ALTER TABLE pools ADD COLUMN strange bigint NOT NULL DEFAULT 0;
