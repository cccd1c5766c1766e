-- +goose Up

-- Machines whose entry a run dropped, while a member may still carry it: their rows may go from an appliance without an operator's word.
CREATE TABLE departures (
	group_id text NOT NULL,
	machine text NOT NULL,
	generation bigint NOT NULL,
	body text NOT NULL,
	CONSTRAINT departure_key PRIMARY KEY (group_id, machine)
);
INSERT INTO departures (group_id, machine, generation, body) SELECT group_id, machine, generation, body FROM entries WHERE removed = 1;
