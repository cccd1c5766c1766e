-- +goose Up

-- Which key seals, and which were held when every value was last seen to open (a JSON array of ids); and who holds which. Keys themselves are
-- never here.
CREATE TABLE vault (
	one integer PRIMARY KEY CONSTRAINT vault_alone CHECK (one = 1),
	sealing text NOT NULL,
	keys text NOT NULL
);
INSERT INTO vault (one, sealing, keys) VALUES (1, '', '[]');
-- Beside the table of workers: a gateway of its own holds keys too.
CREATE TABLE vault_holders (
	holder text PRIMARY KEY,
	keys text NOT NULL,
	seen_at bigint NOT NULL
);
