-- +goose Up

-- Which key seals, and which were held when every value was last seen to open (a JSON array of ids); and who holds which. Keys themselves are
-- never here.
CREATE TABLE vault (
	one INTEGER PRIMARY KEY CONSTRAINT vault_alone CHECK (one = 1),
	sealing TEXT NOT NULL,
	keys TEXT NOT NULL
) STRICT;
INSERT INTO vault (one, sealing, keys) VALUES (1, '', '[]');
-- Beside the table of workers: a gateway of its own holds keys too.
CREATE TABLE vault_holders (
	holder TEXT PRIMARY KEY,
	keys TEXT NOT NULL,
	seen_at INTEGER NOT NULL
) STRICT;
