-- +goose Up

-- The first password of a Windows machine's administrator: sealed by the vault, and encrypted to the order's SSH keys for the customer.
ALTER TABLE machines ADD COLUMN administrator_password bytea;
ALTER TABLE machines ADD COLUMN administrator_age text NOT NULL DEFAULT '';
