-- +goose Up

-- Machines whose entry a run dropped, while a member may still carry it: their rows may go from an appliance without an operator's word.
CREATE TABLE departures (
	group_id TEXT NOT NULL,
	machine TEXT NOT NULL,
	generation INTEGER NOT NULL,
	body TEXT NOT NULL,
	CONSTRAINT departure_key PRIMARY KEY (group_id, machine)
);
INSERT INTO departures (group_id, machine, generation, body) SELECT group_id, machine, generation, body FROM entries WHERE removed = 1;
