-- +goose Up

-- What scans have met of somebody else's: who has an address, a MAC or a console port, and where. The reservation itself is in addresses,
-- macs and console_ports; several sightings may stand for one.
CREATE TABLE sightings (
	kind TEXT NOT NULL CONSTRAINT sighting_kind CHECK (kind IN ('address', 'mac', 'port')),
	scope TEXT NOT NULL,
	value TEXT NOT NULL,
	source TEXT NOT NULL,
	object TEXT NOT NULL,
	role TEXT NOT NULL,
	name TEXT NOT NULL,
	place TEXT NOT NULL,
	peer TEXT NOT NULL,
	PRIMARY KEY (source, object, kind, scope, value)
);
CREATE INDEX sighting_value ON sightings (kind, value);
