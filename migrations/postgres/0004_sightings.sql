-- +goose Up

-- What scans have met of somebody else's: who has an address, a MAC or a console port, and where. The reservation itself is in addresses,
-- macs and console_ports; several sightings may stand for one.
CREATE TABLE sightings (
	kind text NOT NULL CONSTRAINT sighting_kind CHECK (kind IN ('address', 'mac', 'port')),
	scope text NOT NULL,
	value text NOT NULL,
	source text NOT NULL,
	object text NOT NULL,
	role text NOT NULL,
	name text NOT NULL,
	place text NOT NULL,
	peer text NOT NULL,
	PRIMARY KEY (source, object, kind, scope, value)
);
CREATE INDEX sighting_value ON sightings (kind, value);
