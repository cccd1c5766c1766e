-- +goose Up

-- What an order changes of a finished machine, with what was there before, as JSON; and how a machine was suspended, '' when it is not.
ALTER TABLE runs ADD COLUMN alteration text NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN suspension text NOT NULL DEFAULT '';
