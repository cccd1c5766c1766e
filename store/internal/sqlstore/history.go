package sqlstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"slipway/orchestrator"
)

// poolOf is the pool of a run's machine, also of one that has given it back.
const poolOf = `COALESCE(NULLIF(m.pool, ''), r.pool)`

// Watched implements orchestrator.History.
func (s *Store) Watched(ctx context.Context, f orchestrator.WatchFilter) ([]orchestrator.WatchedRun, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	found, ofMachine := map[string]*orchestrator.WatchedRun{}, map[string]*orchestrator.WatchedRun{}
	read := func(keep func(*orchestrator.WatchedRun)) func(Row) error {
		return func(row Row) error {
			v := &orchestrator.WatchedRun{}
			err := row.Scan(append(runFields(&v.Run), &v.Tenant, &v.Name, &v.Pool, intoAddr(&v.Private), intoAddr(&v.Public), &v.Image)...)
			keep(v)
			return err
		}
	}
	every := func(v *orchestrator.WatchedRun) { found[v.ID] = v }
	newest := func(v *orchestrator.WatchedRun) {
		if before, ok := ofMachine[v.Machine]; !ok || later(v.Run, before.Run) {
			ofMachine[v.Machine] = v
		}
	}
	const columns = `SELECT ` + runColumns + `, m.tenant, m.name, ` + poolOf + `, m.private, m.public, m.image FROM runs r JOIN machines m ON m.id = r.machine `
	var stmts []Stmt
	if f.Active {
		stmts = append(stmts, Stmt{
			SQL: columns + `WHERE r.status NOT IN ('done', 'canceled') AND (CAST($1 AS TEXT) = '' OR ` + poolOf + ` = $1 OR m.pool = '' AND m.pool_wanted = $1)
				ORDER BY r.created_at DESC, r.id LIMIT $2`,
			Args: []any{f.Pool, limit}, Scan: read(every),
		})
	}
	if len(f.Runs) > 0 {
		stmts = append(stmts, Stmt{SQL: columns + `WHERE r.id IN {list $1}`, Args: []any{list(f.Runs)}, Scan: read(every)})
	}
	if len(f.Machines) > 0 {
		stmts = append(stmts, Stmt{SQL: columns + `WHERE r.machine IN {list $1}`, Args: []any{list(f.Machines)}, Scan: read(newest)})
	}
	if len(stmts) == 0 {
		return nil, nil
	}
	const op = "store.Watched"
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err := s.db.View(ctx, func(tx Tx) error {
		if _, err := tx.Run(ctx, stmts...); err != nil {
			return err
		}
		for _, v := range ofMachine {
			found[v.ID] = v
		}
		if len(found) == 0 || len(f.Steps) == 0 {
			return nil
		}
		var runs, machines []string
		for id, v := range found {
			runs, machines = append(runs, id), append(machines, v.Machine)
		}
		var lines []orchestrator.Attempt
		// By machine, because that is what the journal is indexed by.
		_, err := tx.Run(ctx, Stmt{
			SQL:  `SELECT ` + attemptColumns + ` FROM attempts a WHERE a.machine IN {list $1} AND a.run IN {list $2} AND a.step IN {list $3} ORDER BY a.id`,
			Args: []any{list(machines), list(runs), list(f.Steps)}, Scan: collectAttempts(&lines),
		})
		for _, line := range lines {
			found[line.Run].Lines = append(found[line.Run].Lines, line)
		}
		return err
	})
	if err != nil {
		return nil, s.fail(op, err)
	}
	out := make([]orchestrator.WatchedRun, 0, len(found))
	for _, v := range found {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b orchestrator.WatchedRun) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// later: a machine's run that is not over is its last, whatever the clocks say.
func later(a, b orchestrator.Run) bool {
	if a.Status.Active() != b.Status.Active() {
		return a.Status.Active()
	}
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID)) > 0
}

// chunk is how many runs' lines one statement reads: few enough that every planner takes the journal's index by machine for them, where it
// would read the whole journal for many.
const chunk = 500

// Durations implements orchestrator.History. An operator's lines in the journal are those whose outcome is a verb.
func (s *Store) Durations(ctx context.Context, f orchestrator.DurationFilter) ([]orchestrator.RunDurations, error) {
	const op = "store.Durations"
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	var runs []orchestrator.RunDurations
	var machines []string // of each
	at := map[string]int{}
	err := s.db.View(ctx, func(tx Tx) error {
		_, err := tx.Run(ctx, Stmt{ // by the index run_done
			SQL: `SELECT r.id, r.machine, r.process, m.image, ` + poolOf + `, r.updated_at - r.created_at, r.rewound FROM runs r JOIN machines m ON m.id = r.machine
				WHERE r.status = 'done' AND r.updated_at >= $1 AND (CAST($2 AS TEXT) = '' OR r.process = $2)
				AND (CAST($3 AS TEXT) = '' OR ` + poolOf + ` = $3) AND (CAST($4 AS TEXT) = '' OR m.image = $4)
				ORDER BY r.updated_at DESC, r.id LIMIT $5`,
			Args: []any{micros(f.Since), f.Process, f.Pool, f.Image, limit},
			Scan: func(row Row) error {
				var r orchestrator.RunDurations
				var machine string
				var took, rewound int64
				err := row.Scan(&r.Run, &machine, &r.Process, &r.Image, &r.Pool, &took, &rewound)
				r.Total, r.Repaired = time.Duration(took)*time.Microsecond, rewound > 0
				at[r.Run] = len(runs)
				runs, machines = append(runs, r), append(machines, machine)
				return err
			},
		})
		if err != nil {
			return err
		}
		var stmts []Stmt
		for first := 0; first < len(runs); first += chunk {
			past := min(first+chunk, len(runs))
			var ids []string
			for _, r := range runs[first:past] {
				ids = append(ids, r.Run)
			}
			stmts = append(stmts, Stmt{
				SQL: `SELECT a.run, a.step, MAX(a.ended) - MIN(a.started), MAX(CASE WHEN a.outcome = 'skipped' THEN 1 ELSE 0 END),
					MAX(CASE WHEN a.outcome IN ('retry', 'skip', 'force', 'rewind', 'adopt', 'cancel') THEN 1 ELSE 0 END)
					FROM attempts a WHERE a.machine IN {list $1} AND a.run IN {list $2} AND a.undo = 0 GROUP BY a.run, a.step`,
				Args: []any{list(machines[first:past]), list(ids)},
				Scan: func(row Row) error {
					var run string
					var step orchestrator.StepDuration
					var took, skipped, repaired int64
					if err := row.Scan(&run, &step.Step, &took, &skipped, &repaired); err != nil {
						return err
					}
					step.Took, step.Skipped = max(0, time.Duration(took)*time.Microsecond), skipped == 1
					r := &runs[at[run]]
					r.Steps, r.Repaired = append(r.Steps, step), r.Repaired || repaired == 1
					return nil
				},
			})
		}
		_, err = tx.Run(ctx, stmts...)
		return err
	})
	if err != nil {
		return nil, s.fail(op, err)
	}
	return runs, nil
}
