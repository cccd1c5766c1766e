package sqlstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"slipway/orchestrator"
)

// holderLife is how long a process that says nothing counts as one that may still open secrets; it says something every minute.
const holderLife = 3 * time.Minute

const holdersSQL = `SELECT holder, keys, seen_at, CASE WHEN seen_at > {now} - CAST($1 AS BIGINT) THEN 1 ELSE 0 END FROM vault_holders ORDER BY holder`

func collectHolders(out *[]orchestrator.KeyHolder) func(Row) error {
	return func(row Row) error {
		var h orchestrator.KeyHolder
		err := row.Scan(&h.Holder, intoJSON(&h.Keys), intoTime(&h.SeenAt), intoBool(&h.Live))
		*out = append(*out, h)
		return err
	}
}

func readVault(state *orchestrator.VaultState, lock string) Stmt {
	return Stmt{SQL: `SELECT sealing, keys FROM vault WHERE one = 1` + lock, Scan: func(row Row) error { return row.Scan(&state.Sealing, intoJSON(&state.Keys)) }}
}

// Vault implements orchestrator.Secrets.
func (s *Store) Vault(ctx context.Context) (state orchestrator.VaultState, holders []orchestrator.KeyHolder, err error) {
	err = s.view(ctx, "store.Vault", readVault(&state, ""), Stmt{SQL: holdersSQL, Args: []any{holderLife.Microseconds()}, Scan: collectHolders(&holders)})
	return state, holders, err
}

// JoinVault implements orchestrator.Secrets. What has not been heard of for a day is forgotten.
func (s *Store) JoinVault(ctx context.Context, holder string, keys []string, next func(orchestrator.VaultState) (orchestrator.VaultState, error)) (orchestrator.VaultState, error) {
	var state orchestrator.VaultState
	err := s.transact(ctx, "store.JoinVault", func(ctx context.Context, tx Tx) error {
		if _, err := tx.Run(ctx, readVault(&state, ` {lock}`)); err != nil {
			return err
		}
		stmts := []Stmt{
			{SQL: `INSERT INTO vault_holders (holder, keys, seen_at) VALUES ($1, $2, {now}) ON CONFLICT (holder) DO UPDATE SET keys = excluded.keys, seen_at = excluded.seen_at`,
				Args: []any{holder, list(keys)}},
			{SQL: `DELETE FROM vault_holders WHERE seen_at < {now} - CAST($1 AS BIGINT)`, Args: []any{(24 * time.Hour).Microseconds()}},
		}
		if next != nil {
			var err error
			if state, err = next(state); err != nil {
				return err
			}
			stmts = append(stmts, Stmt{SQL: `UPDATE vault SET sealing = $1, keys = $2 WHERE one = 1`, Args: []any{state.Sealing, list(state.Keys)}})
		}
		_, err := tx.Run(ctx, stmts...)
		return err
	})
	return state, err
}

// LeaveVault implements orchestrator.Secrets.
func (s *Store) LeaveVault(ctx context.Context, holder string) error {
	return s.update(ctx, "store.LeaveVault", Stmt{SQL: `DELETE FROM vault_holders WHERE holder = $1`, Args: []any{holder}})
}

// SealWith implements orchestrator.Secrets.
func (s *Store) SealWith(ctx context.Context, key, actor, reason string) error {
	return s.transact(ctx, "store.SealWith", func(ctx context.Context, tx Tx) error {
		var state orchestrator.VaultState
		var holders []orchestrator.KeyHolder
		_, err := tx.Run(ctx, readVault(&state, ` {lock}`), Stmt{SQL: holdersSQL, Args: []any{holderLife.Microseconds()}, Scan: collectHolders(&holders)})
		if err != nil {
			return err
		}
		var without orchestrator.FieldErrors
		for _, h := range holders {
			if h.Live && !slices.Contains(h.Keys, key) {
				without = append(without, orchestrator.FieldError{Field: "vault_key", Problem: fmt.Sprintf("worker %s does not hold key %s and could not open what is sealed under it", h.Holder, key),
					Fix: fmt.Sprintf("add the key there and restart it; one that is gone is forgotten after %s", holderLife)})
			}
		}
		if without != nil {
			return without
		}
		if !slices.Contains(state.Keys, key) {
			state.Keys = append(state.Keys, key)
		}
		err = one(ctx, tx, `UPDATE vault SET sealing = $1, keys = $2 WHERE one = 1`, nil, key, list(state.Keys))
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "rotate-secrets", "key "+key, reason)
	})
}

// replacer is told a value's name in the vault and the value, and returns what is to stand in its place.
type replacer func(name string, s orchestrator.Sealed) (orchestrator.Sealed, error)

// sealedRow is a row that holds sealed values. rewrite hands each of them to a replacer and returns the statement that writes the row, unless
// somebody else wrote it meanwhile: then the next look finds it again.
type sealedRow struct {
	machine string
	rewrite func(replacer) (Stmt, error)
}

// sealedRows reads every row with sealed values of some machines ("IN {list $1}", "= $1"): the machines' own, those of their console entries,
// as wanted and as live, and those of what their runs change.
func sealedRows(which string, arg any, out *[]sealedRow) []Stmt {
	collect := func(read func(Row) (sealedRow, error)) func(Row) error {
		return func(row Row) error {
			r, err := read(row)
			*out = append(*out, r)
			return err
		}
	}
	return []Stmt{
		{SQL: `SELECT id, host_key_secret, console_password, administrator_password FROM machines WHERE id ` + which, Args: []any{arg}, Scan: collect(machineSecrets)},
		{
			SQL:  `SELECT machine, group_id, body, live FROM entries WHERE machine ` + which + ` AND group_id IN (SELECT id FROM appliance_groups WHERE unit = 'console')`,
			Args: []any{arg}, Scan: collect(entrySecrets),
		},
		{SQL: `SELECT machine, id, alteration FROM runs WHERE machine ` + which + ` AND alteration <> ''`, Args: []any{arg}, Scan: collect(alterationSecrets)},
	}
}

func machineSecrets(row Row) (r sealedRow, err error) {
	var values [3]orchestrator.Sealed
	err = row.Scan(&r.machine, intoBytes(&values[0]), intoBytes(&values[1]), intoBytes(&values[2]))
	machine := r.machine
	r.rewrite = func(f replacer) (Stmt, error) {
		for i, name := range []string{orchestrator.SealedHostKey, orchestrator.SealedConsole, orchestrator.SealedAdmin} {
			if err := replace(f, name, &values[i]); err != nil {
				return Stmt{}, err
			}
		}
		return Stmt{
			SQL:  `UPDATE machines SET host_key_secret = $2, console_password = $3, administrator_password = $4 WHERE id = $1`,
			Args: []any{machine, []byte(values[0]), []byte(values[1]), []byte(values[2])},
		}, nil
	}
	return r, err
}

// entrySecrets keeps the text of an entry as orchestrator's own encoding has it: texts are compared.
func entrySecrets(row Row) (r sealedRow, err error) {
	var group string
	var texts [2]string // body, live
	err = row.Scan(&r.machine, &group, &texts[0], &texts[1])
	machine, was := r.machine, texts
	r.rewrite = func(f replacer) (Stmt, error) {
		for i := range texts {
			if texts[i] == "" {
				continue
			}
			var e orchestrator.ConsoleEntry
			if err := json.Unmarshal([]byte(texts[i]), &e); err != nil {
				return Stmt{}, fmt.Errorf("the entry of machine %s in group %s: %w", machine, group, err)
			}
			sealed, err := base64.StdEncoding.DecodeString(e.Password)
			if err != nil {
				return Stmt{}, fmt.Errorf("the entry of machine %s in group %s: %w", machine, group, err)
			}
			former := bytes.Clone(sealed)
			if err := replace(f, orchestrator.SealedConsole, (*orchestrator.Sealed)(&sealed)); err != nil {
				return Stmt{}, err
			}
			if !bytes.Equal(former, sealed) {
				e.Password = base64.StdEncoding.EncodeToString(sealed)
				texts[i] = text(e)
			}
		}
		return Stmt{
			SQL:  `UPDATE entries SET body = $3, live = $4 WHERE group_id = $1 AND machine = $2 AND body = $5 AND live = $6`,
			Args: []any{group, machine, texts[0], texts[1], was[0], was[1]},
		}, nil
	}
	return r, err
}

func alterationSecrets(row Row) (r sealedRow, err error) {
	var run, was string
	err = row.Scan(&r.machine, &run, &was)
	r.rewrite = func(f replacer) (Stmt, error) {
		var a orchestrator.Alteration
		if err := json.Unmarshal([]byte(was), &a); err != nil {
			return Stmt{}, fmt.Errorf("what run %s changes: %w", run, err)
		}
		for _, s := range []*orchestrator.Settings{&a.Former, &a.Wanted} {
			if err := replace(f, orchestrator.SealedConsole, &s.ConsolePassword); err != nil {
				return Stmt{}, err
			}
		}
		return Stmt{SQL: `UPDATE runs SET alteration = $2 WHERE id = $1 AND alteration = $3`, Args: []any{run, text(a), was}}, nil
	}
	return r, err
}

func replace(f replacer, name string, s *orchestrator.Sealed) error {
	if len(*s) == 0 {
		return nil
	}
	replaced, err := f(name, *s)
	if err == nil {
		*s = replaced
	}
	return err
}

// SealedValues implements orchestrator.Secrets.
func (s *Store) SealedValues(ctx context.Context, after string, limit int) (values []orchestrator.SealedValue, next string, err error) {
	const op = "store.SealedValues"
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err = s.db.View(ctx, func(tx Tx) error {
		var ids []string
		err := one(ctx, tx, `SELECT id FROM machines WHERE id > $1 ORDER BY id LIMIT $2`, func(row Row) error {
			var id string
			err := row.Scan(&id)
			ids = append(ids, id)
			return err
		}, after, limit)
		if err != nil || len(ids) == 0 {
			return err
		}
		var rows []sealedRow
		if _, err := tx.Run(ctx, sealedRows(`IN {list $1}`, list(ids), &rows)...); err != nil {
			return err
		}
		for _, r := range rows {
			_, err := r.rewrite(func(name string, sealed orchestrator.Sealed) (orchestrator.Sealed, error) {
				values = append(values, orchestrator.SealedValue{Machine: r.machine, Name: name, Sealed: sealed})
				return sealed, nil
			})
			if err != nil {
				return err
			}
		}
		if len(ids) == limit {
			next = ids[len(ids)-1]
		}
		return nil
	})
	return values, next, s.fail(op, err)
}

// Reseal implements orchestrator.Secrets.
func (s *Store) Reseal(ctx context.Context, machine string, f func(orchestrator.SealedValue) (orchestrator.Sealed, error)) (int, error) {
	changed := 0
	err := s.transact(ctx, "store.Reseal", func(ctx context.Context, tx Tx) error {
		changed = 0
		var rows []sealedRow
		if _, err := tx.Run(ctx, append([]Stmt{lockMachine(machine)}, sealedRows(`= $1`, machine, &rows)...)...); err != nil {
			return err
		}
		made := map[string]orchestrator.Sealed{} // equal values stay equal: an alteration tells by that what it changes
		var writes []Stmt
		for _, r := range rows {
			before := changed
			write, err := r.rewrite(func(name string, sealed orchestrator.Sealed) (orchestrator.Sealed, error) {
				key := name + "\x00" + string(sealed)
				if _, ok := made[key]; !ok {
					replaced, err := f(orchestrator.SealedValue{Machine: machine, Name: name, Sealed: sealed})
					if err != nil {
						return nil, err
					}
					made[key] = replaced
				}
				if !bytes.Equal(made[key], sealed) {
					changed++
				}
				return made[key], nil
			})
			if err != nil {
				return err
			}
			if changed > before {
				writes = append(writes, write)
			}
		}
		_, err := tx.Run(ctx, writes...)
		return err
	})
	if err != nil {
		changed = 0
	}
	return changed, err
}
