-- +goose Up

-- When a run was let begin that takes a machine from its customer. What was under way before it was counted had begun.
ALTER TABLE runs ADD COLUMN begun_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX run_begun ON runs (process, begun_at) WHERE begun_at > 0;
UPDATE runs SET begun_at = step_since WHERE status NOT IN ('done', 'canceled') AND process IN ('uninstall', 'suspend');

-- From when on a pool's beginnings are counted: an operator's word ends what was counted before. Whoever counts holds the row.
CREATE TABLE guards (
	subject TEXT NOT NULL,
	process TEXT NOT NULL,
	since INTEGER NOT NULL,
	CONSTRAINT guard_key PRIMARY KEY (subject, process)
);
