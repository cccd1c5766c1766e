-- +goose Up

-- The pool that a run's machine had, kept when its placement is given back: until then the machine's row says it.
ALTER TABLE runs ADD COLUMN pool TEXT NOT NULL DEFAULT '';

-- The newest runs that came to their end, for statistics.
CREATE INDEX run_done ON runs (updated_at) WHERE status = 'done';
