-- +goose Up

-- What a machine was before it was imported, as JSON; '' for one that was ordered.
ALTER TABLE machines ADD COLUMN imported TEXT NOT NULL DEFAULT '';
