-- +goose Up

-- What of the machine is in the DNS, or may be, as JSON: whoever takes the machine away looks there and nowhere else.
ALTER TABLE machines ADD COLUMN dns text NOT NULL DEFAULT '';
