-- +goose Up

-- The places at which a worker can take runs up, each between two bars.
ALTER TABLE workers ADD COLUMN knows TEXT NOT NULL DEFAULT '';
