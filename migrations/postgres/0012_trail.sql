-- +goose Up

-- The operators' audit trail is a chain: each line has the hash of itself and of the line before. The one row of act_head is the newest
-- line; whoever writes a line holds it until the commit. Lines from before have no hash; the first one after them covers them.
ALTER TABLE acts ADD COLUMN hash text NOT NULL DEFAULT '';
CREATE TABLE act_head (
	one integer PRIMARY KEY CONSTRAINT act_head_alone CHECK (one = 1),
	id bigint NOT NULL,
	hash text NOT NULL
);
INSERT INTO act_head (one, id, hash) SELECT 1, COALESCE(MAX(id), 0), '' FROM acts;
-- +goose StatementBegin
CREATE FUNCTION act_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '%: the audit trail is only added to, line by line', TG_ARGV[0]
		USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0], TABLE = TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER act_chained BEFORE INSERT ON acts FOR EACH ROW WHEN (NEW.hash = '') EXECUTE FUNCTION act_refused('act_chained');
CREATE TRIGGER act_kept BEFORE UPDATE OR DELETE ON acts FOR EACH ROW EXECUTE FUNCTION act_refused('act_kept');
