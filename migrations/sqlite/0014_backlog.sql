-- +goose Up

-- Orders of tenants that have as much under way as they may, as they came, in their order.
CREATE TABLE backlog (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	tenant TEXT NOT NULL,
	source TEXT NOT NULL,
	order_id TEXT NOT NULL,
	sha256 TEXT NOT NULL,
	body TEXT NOT NULL,
	at INTEGER NOT NULL,
	tries INTEGER NOT NULL DEFAULT 0,
	due INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX backlog_order ON backlog (source, order_id, sha256);
CREATE INDEX backlog_tenant ON backlog (tenant, id);

-- The runs that workers have in hand.
CREATE INDEX run_held ON runs (holder) WHERE holder <> '';
