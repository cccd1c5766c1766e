-- +goose Up

-- What an operator asked of a run and its worker has not carried out yet, as JSON; and the highest attempt when the run was last rewound.
ALTER TABLE runs ADD COLUMN request text NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN rewound bigint NOT NULL DEFAULT 0;
