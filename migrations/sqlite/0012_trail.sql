-- +goose Up

-- The operators' audit trail is a chain: each line has the hash of itself and of the line before. The one row of act_head is the newest
-- line; whoever writes a line holds it until the commit. Lines from before have no hash; the first one after them covers them.
ALTER TABLE acts ADD COLUMN hash TEXT NOT NULL DEFAULT '';
CREATE TABLE act_head (
	one INTEGER PRIMARY KEY CONSTRAINT act_head_alone CHECK (one = 1),
	id INTEGER NOT NULL,
	hash TEXT NOT NULL
) STRICT;
INSERT INTO act_head (one, id, hash) SELECT 1, COALESCE(MAX(id), 0), '' FROM acts;
-- +goose StatementBegin
CREATE TRIGGER act_chained BEFORE INSERT ON acts WHEN NEW.hash = ''
BEGIN SELECT RAISE(ABORT, 'act_chained'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER act_kept_update BEFORE UPDATE ON acts
BEGIN SELECT RAISE(ABORT, 'act_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER act_kept_delete BEFORE DELETE ON acts
BEGIN SELECT RAISE(ABORT, 'act_kept'); END;
-- +goose StatementEnd
