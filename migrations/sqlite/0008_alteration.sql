-- +goose Up

-- What an order changes of a finished machine, with what was there before, as JSON; and how a machine was suspended, '' when it is not.
ALTER TABLE runs ADD COLUMN alteration TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN suspension TEXT NOT NULL DEFAULT '';
