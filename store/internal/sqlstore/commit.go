package sqlstore

import (
	"context"
	"encoding/json"
	"slices"

	"slipway/orchestrator"
)

// Commit implements orchestrator.Journal. The whole group is one transaction. The statement that a constraint refuses belongs to one
// commit of the group: that one is answered, and the transaction is made again without it. A commit without a decision costs one round
// trip; decisions of a group share one ledger lock and one load of the ledger, and Decide may be called again when the transaction has
// to be made again.
func (s *Store) Commit(ctx context.Context, commits []orchestrator.Commit) []orchestrator.CommitResult {
	const op = "store.Commit"
	ctx, cancel := s.bound(ctx)
	defer cancel()
	results := make([]orchestrator.CommitResult, len(commits))
	left := make([]int, len(commits))
	for i := range left {
		left[i] = i
	}
	for len(left) > 0 {
		g := group{store: s, commits: commits, results: results, left: left}
		culprit, err := g.commit(ctx)
		left = g.left // without those that Decide refused
		if err == nil {
			break
		}
		fault := s.db.Fault(err)
		if culprit < 0 || fault.Away {
			if err = s.fail(op, err); fault.Away && !fault.Full {
				err = away(op, err)
			}
			for _, i := range left {
				results[i] = orchestrator.CommitResult{Err: err}
			}
			break
		}
		results[culprit] = orchestrator.CommitResult{Err: s.fail(op, err)}
		left = slices.DeleteFunc(left, func(i int) bool { return i == culprit })
	}
	return results
}

// group is one try to commit what is left of a group.
type group struct {
	store   *Store
	commits []orchestrator.Commit
	results []orchestrator.CommitResult
	left    []int

	stmts  []Stmt
	owners []int // of each statement: the index of its commit, -1 for what they share
}

// commit makes the transaction; culprit is the commit whose statement failed, -1 when it was none's.
func (g *group) commit(ctx context.Context) (culprit int, err error) {
	decides := slices.ContainsFunc(g.left, func(i int) bool { return g.commits[i].Decide != nil })
	at := -1
	if decides {
		at, err = g.decide(ctx)
	} else {
		g.compile(nil)
		at, err = g.store.db.Apply(ctx, g.stmts)
	}
	if err != nil && at >= 0 && at < len(g.owners) {
		return g.owners[at], err
	}
	return -1, err
}

// decide loads the ledger under its lock, lets each decider decide, and writes everything.
func (g *group) decide(ctx context.Context) (at int, err error) {
	all := g.left
	at = -1
	err = g.store.db.Update(ctx, func(tx Tx) error {
		at = -1
		g.left = slices.Clone(all)
		ledger, placed, err := g.store.loadLedger(ctx, tx, g.deciders())
		if err != nil {
			return err
		}
		decisions := map[int]decision{}
		g.left = slices.DeleteFunc(g.left, func(i int) bool {
			decide := g.commits[i].Decide
			if decide == nil {
				return false
			}
			var d decision
			d.placement, d.detail, err = decide(ledger)
			if before, ok := placed[g.commits[i].Run.Machine]; ok && err == nil {
				d.moves = true
				err = mayMove(before, d.placement)
			}
			if err != nil {
				g.results[i] = orchestrator.CommitResult{Err: err}
				return true
			}
			decisions[i] = d
			return false
		})
		g.compile(decisions)
		at, err = tx.Run(ctx, g.stmts...)
		return err
	})
	return at, err
}

func (g *group) deciders() []string {
	var machines []string
	for _, i := range g.left {
		if g.commits[i].Decide != nil {
			machines = append(machines, g.commits[i].Run.Machine)
		}
	}
	return machines
}

// decision is what a Decide promised.
type decision struct {
	placement orchestrator.Placement
	detail    json.RawMessage
	moves     bool // the machine has a placement: only its host and storage may be others
}

// mayMove refuses a second decision that would take an address, MAC or port from a machine.
func mayMove(before, after orchestrator.Placement) error {
	after.Host, after.SR = before.Host, before.SR
	if before != after {
		return orchestrator.Errorf("store.Commit", orchestrator.Permanent, "the machine has a placement in pool %s: another one may only name another host or storage", before.Pool)
	}
	return nil
}

// compile turns what is left into statements. Locks are taken in one order by everybody: the ledger, groups by name, runs, machines.
func (g *group) compile(decisions map[int]decision) {
	g.stmts, g.owners = nil, nil
	releases, groups := false, []string{}
	for _, i := range g.left {
		for _, change := range g.commits[i].Changes {
			switch change := change.(type) {
			case orchestrator.PutEntry:
				groups = append(groups, change.Group)
			case orchestrator.DropEntry:
				groups = append(groups, change.Group)
			case orchestrator.ReleasePlacement:
				releases = true
			}
		}
	}
	if lock, ok := g.store.db.LockLedger(); ok {
		if releases && decisions == nil {
			g.add(-1, lock)
		}
		slices.Sort(groups)
		if groups = slices.Compact(groups); len(groups) > 1 {
			g.add(-1, Stmt{SQL: `SELECT id FROM appliance_groups WHERE id IN {list $1} ORDER BY id {lock}`, Args: []any{list(groups)}, Scan: func(Row) error { return nil }})
		}
	}
	for _, i := range g.left {
		g.results[i] = orchestrator.CommitResult{}
		d, decided := decisions[i]
		c := compiler{commit: &g.commits[i], result: &g.results[i]}
		if decided {
			c.decision = &d
			g.results[i].Placement = d.placement
		}
		c.compile()
		for _, stmt := range c.stmts {
			g.add(i, stmt)
		}
	}
}

func (g *group) add(owner int, stmt Stmt) {
	g.stmts, g.owners = append(g.stmts, stmt), append(g.owners, owner)
}

// compiler turns one commit into statements.
type compiler struct {
	commit   *orchestrator.Commit
	result   *orchestrator.CommitResult
	decision *decision
	stmts    []Stmt
}

func (c *compiler) add(sql string, args ...any) {
	c.stmts = append(c.stmts, Stmt{SQL: sql, Args: args})
}

func (c *compiler) compile() {
	c.run()
	c.machine()
	if c.decision != nil {
		c.claim(*c.decision)
		c.promise(*c.decision)
	}
	for _, change := range c.commit.Changes {
		c.change(change)
	}
	if a := c.commit.Ended; a != nil {
		ended := *a
		if c.decision != nil && ended.Detail == nil {
			ended.Detail = c.decision.detail
		}
		c.attempt(ended, nil)
	}
	if a := c.commit.Opened; a != nil {
		c.attempt(*a, &c.result.Opened)
	}
	for i, event := range c.commit.Events {
		c.event(event, len(c.commit.Events)-1-i)
	}
	c.successor()
}

// updateRun writes 1 to fenced_out unless the lease is the caller's, which the constraint run_lease refuses. A cancel that the caller has
// not been told of turns a run that is put down into a canceling one, so that somebody takes it up.
const updateRun = `UPDATE runs SET
	fenced_out = CASE WHEN fence = $2 AND holder = $3 THEN 0 ELSE 1 END,
	process = $4, state = $5,
	status = CASE WHEN asked = 1 AND CAST($6 AS TEXT) IN ('ready', 'waiting', 'parked') THEN 'canceling' ELSE $6 END,
	wake_at = CASE WHEN asked = 1 AND CAST($6 AS TEXT) IN ('ready', 'waiting', 'parked') THEN {now} ELSE CAST($7 AS BIGINT) END,
	asked = 0,
	step = $8, row_hash = $9, undoing = $10, attempt = $11, failures = $12, conflicts = $13, step_since = $14, handles = $15,
	reason = $16, kind = $17, wake_key = $18, deadline = $19,
	cancel = CASE WHEN cancel = '' THEN $20 ELSE cancel END,
	successor = CASE WHEN successor_id = '' THEN $21 ELSE successor END,
	successor_id = CASE WHEN successor_id = '' THEN $22 ELSE successor_id END,
	holder = CASE WHEN CAST($23 AS BIGINT) = 1 THEN '' ELSE holder END,
	lease_until = CASE WHEN CAST($23 AS BIGINT) = 1 THEN 0 ELSE {now} + lease_length END,
	request = $24, rewound = $25,
	updated_at = {now}
	WHERE id = $1 RETURNING cancel, successor, successor_id`

func (c *compiler) run() {
	r := c.commit.Run
	status := r.Status
	release := c.commit.Release || status == orchestrator.StatusWaiting || status == orchestrator.StatusParked || !status.Active()
	if release && status == orchestrator.StatusRunning {
		status = orchestrator.StatusReady
	}
	c.stmts = append(c.stmts, Stmt{
		SQL: updateRun,
		Args: []any{
			r.ID, r.Fence, r.Holder, r.Process, string(r.State), string(status), micros(r.WakeAt),
			r.Step, r.RowHash, flag(r.Undoing), r.Attempt, r.Failures, r.Conflicts, micros(r.StepSince), handles(r.Handles),
			r.Reason, string(r.Kind), r.WakeKey, micros(r.Deadline), r.Cancel, r.Successor, r.SuccessorID, flag(release),
			request(r.Request), r.Rewound,
		},
		Scan: func(row Row) error { return row.Scan(&c.result.Cancel, &c.result.Successor, &c.result.SuccessorID) },
	})
}

const updateMachine = `UPDATE machines SET name = $2, hostname = $3, image = $4, vcpus = $5, memory_mib = $6, disk_gib = $7, firewall = $8, ssh_keys = $9,
	presence = $10, state = $11, vm = $12, disks = $13, address = $14, host_key = $15, host_key_secret = $16, console_password = $17, identity = $18,
	pool_wanted = $19, seq = seq + $20, administrator_password = $21, administrator_age = $22, suspension = $23, dns = $24, console_age = $25, updated_at = {now} WHERE id = $1`

// machine writes what a step learned, and takes the numbers of the commit's events. The placement is never taken from here: it changes by
// a decision or by ReleasePlacement.
func (c *compiler) machine() {
	events, m := len(c.commit.Events), c.commit.Machine
	if m == nil {
		if events > 0 {
			c.add(`UPDATE machines SET seq = seq + $2 WHERE id = $1`, c.commit.Run.Machine, events)
		}
		return
	}
	if m.Presence == orchestrator.Absent {
		c.add(`UPDATE console_passes SET revoked_at = {now} WHERE machine = $1 AND revoked_at = 0`, m.ID)
	}
	c.add(updateMachine, m.ID, m.Name, m.Hostname, m.Image, m.Plan.VCPUs, m.Plan.MemoryMiB, m.Plan.DiskGiB, text(m.Firewall), text(m.SSHKeys),
		string(m.Presence), m.State, m.VM, list(m.Disks), addr(m.Address), m.HostKey, []byte(m.HostKeySecret), []byte(m.ConsolePassword), m.Identity,
		m.PoolWanted, events, []byte(m.AdministratorPassword), m.AdministratorAge, filled(m.Suspension), filled(m.DNS), m.ConsoleAge)
}

// promise writes a decision: the reservation (whose triggers count memory and storage), the addresses, the MAC and the console port.
func (c *compiler) promise(d decision) {
	p, machine := d.placement, c.commit.Run.Machine
	if d.moves {
		c.add(`UPDATE reservations SET host = $2, sr = $3 WHERE machine = $1`, machine, p.Host, p.SR)
	} else {
		c.add(`INSERT INTO reservations (machine, pool, host, sr, memory_mib, bytes, dhcp_group, firewall_group, console_group)
			SELECT id, $2, $3, $4, memory_mib, disk_gib * 1073741824, $5, $6, $7 FROM machines WHERE id = $1`,
			machine, p.Pool, p.Host, p.SR, p.DHCP, p.Firewall, p.Console)
		c.promiseAddress(p.Pool, addr(p.Private), "private")
		if p.Public.IsValid() {
			c.promiseAddress(p.Pool, addr(p.Public), "public")
		}
		c.add(`INSERT INTO macs (mac, pool, owner, machine, state) VALUES ($1, $2, 'slipway', $3, 'bound')`, p.MAC, p.Pool, machine)
		c.add(`INSERT INTO console_ports (console_group, port, owner, machine, state) VALUES ($1, $2, 'slipway', $3, 'bound')`, p.Console, int64(p.ConsolePort), machine)
	}
	c.add(`UPDATE machines SET pool = $2, host = $3, sr = $4, private = $5, public = $6, mac = $7, console_port = $8, dhcp_group = $9,
		firewall_group = $10, console_group = $11 WHERE id = $1`,
		machine, p.Pool, p.Host, p.SR, addr(p.Private), addr(p.Public), p.MAC, int64(p.ConsolePort), p.DHCP, p.Firewall, p.Console)
}

// claim makes room for a promise that is about a VM which has it already.
func (c *compiler) claim(d decision) {
	claims := slices.ContainsFunc(c.commit.Changes, func(change orchestrator.Change) bool { _, claims := change.(orchestrator.ClaimForeign); return claims })
	if !claims || d.moves {
		return
	}
	p, machine := d.placement, c.commit.Run.Machine
	c.add(`DELETE FROM addresses WHERE address IN {list $1} AND owner = 'foreign'`, list([]string{addr(p.Private), addr(p.Public)}))
	c.add(`DELETE FROM macs WHERE mac = $1 AND owner = 'foreign'`, p.MAC)
	c.add(`UPDATE hosts SET memory_mib = memory_mib + (SELECT memory_mib FROM machines WHERE id = $3) WHERE pool = $1 AND uuid = $2`, p.Pool, p.Host, machine)
	c.add(`UPDATE srs SET bytes = bytes + (SELECT disk_gib * 1073741824 FROM machines WHERE id = $3) WHERE pool = $1 AND uuid = $2`, p.Pool, p.SR, machine)
}

// giveBack makes what a claim took foreign again, before the rest of the placement is released. The next inventory counts the room anew.
func (c *compiler) giveBack() {
	machine := c.commit.Run.Machine
	c.add(`UPDATE addresses SET owner = 'foreign', machine = NULL, state = 'foreign', until = 0, note = 'given back by an import' WHERE machine = $1 AND state IN ('reserved', 'bound')`, machine)
	c.add(`UPDATE macs SET owner = 'foreign', machine = NULL, state = 'foreign', until = 0 WHERE machine = $1 AND state = 'bound'`, machine)
	for _, room := range []string{
		`UPDATE hosts SET memory_mib = hosts.memory_mib - v.memory_mib FROM reservations v WHERE v.machine = $1 AND hosts.pool = v.pool AND hosts.uuid = v.host`,
		`UPDATE srs SET bytes = srs.bytes - v.bytes FROM reservations v WHERE v.machine = $1 AND srs.pool = v.pool AND srs.uuid = v.sr`,
	} {
		c.add(room, machine)
	}
}

func (c *compiler) promiseAddress(pool, address, role string) {
	c.add(`INSERT INTO addresses (address, pool, role, owner, machine, state) VALUES ($1, $2, $3, 'slipway', $4, 'reserved')`,
		address, pool, role, c.commit.Run.Machine)
}

func (c *compiler) change(change orchestrator.Change) {
	machine := c.commit.Run.Machine
	switch change := change.(type) {
	case orchestrator.PutEntry:
		if change.Unit == orchestrator.Console {
			c.revokePasses(change.Group, string(change.Body))
		}
		c.add(`UPDATE appliance_groups SET generation = generation + 1 WHERE id = $1 AND NOT EXISTS
			(SELECT 1 FROM entries WHERE group_id = $1 AND machine = $2 AND removed = 0 AND bad = '' AND body = $3)`,
			change.Group, machine, string(change.Body))
		// No generation is found for a group that is not configured, or is one of another unit: NOT NULL refuses that.
		c.add(`INSERT INTO entries (group_id, machine, owner, generation, removed, body)
			VALUES ($1, $2, 'slipway', (SELECT generation FROM appliance_groups WHERE id = $1 AND unit = $4), 0, $3)
			ON CONFLICT (group_id, machine) DO UPDATE SET generation = excluded.generation, removed = 0, body = excluded.body, bad = ''
			WHERE entries.removed = 1 OR entries.bad <> '' OR entries.body <> excluded.body`,
			change.Group, machine, string(change.Body), string(change.Unit))
	case orchestrator.DropEntry:
		c.revokePasses(change.Group, "")
		c.add(`UPDATE appliance_groups SET generation = generation + 1 WHERE id = $1 AND EXISTS
			(SELECT 1 FROM entries WHERE group_id = $1 AND machine = $2 AND removed = 0)`, change.Group, machine)
		c.add(`INSERT INTO departures (group_id, machine, generation, body)
			SELECT e.group_id, e.machine, g.generation, e.body FROM entries e JOIN appliance_groups g ON g.id = e.group_id
			WHERE e.group_id = $1 AND e.machine = $2 AND e.removed = 0
			ON CONFLICT (group_id, machine) DO UPDATE SET generation = excluded.generation, body = excluded.body`, change.Group, machine)
		c.add(`UPDATE entries SET removed = 1, bad = '', generation = (SELECT generation FROM appliance_groups WHERE id = $1)
			WHERE group_id = $1 AND machine = $2 AND removed = 0`, change.Group, machine)
	case orchestrator.BindAddresses:
		c.add(`UPDATE addresses SET state = 'bound' WHERE machine = $1 AND state = 'reserved'`, machine)
	case orchestrator.ReleasePlacement:
		c.release(change)
	}
}

// release gives a placement back; whoever waits for room is due then.
func (c *compiler) release(change orchestrator.ReleasePlacement) {
	machine := c.commit.Run.Machine
	if change.Foreign {
		c.giveBack()
	}
	c.add(`DELETE FROM reservations WHERE machine = $1`, machine)
	if change.Quarantine > 0 {
		until := change.Quarantine.Microseconds()
		c.add(`UPDATE addresses SET state = 'quarantine', until = {now} + CAST($2 AS BIGINT) WHERE machine = $1 AND state IN ('reserved', 'bound')`, machine, until)
		c.add(`UPDATE macs SET state = 'quarantine', until = {now} + CAST($2 AS BIGINT) WHERE machine = $1 AND state = 'bound'`, machine, until)
		c.add(`UPDATE console_ports SET state = 'quarantine', until = {now} + CAST($2 AS BIGINT) WHERE machine = $1 AND state = 'bound'`, machine, until)
	} else {
		c.add(`DELETE FROM addresses WHERE machine = $1`, machine)
		c.add(`DELETE FROM macs WHERE machine = $1`, machine)
		c.add(`DELETE FROM console_ports WHERE machine = $1`, machine)
	}
	c.add(`UPDATE runs SET pool = (SELECT pool FROM machines WHERE id = $1) WHERE machine = $1 AND pool = ''`, machine) // for its history
	c.add(`UPDATE machines SET pool = '', host = '', sr = '', private = '', public = '', mac = '', console_port = 0, dhcp_group = '',
		firewall_group = '', console_group = '' WHERE id = $1`, machine)
	c.stmts = append(c.stmts, wake(orchestrator.WakeCapacity))
}

// attempt inserts a line of the journal, or ends one.
func (c *compiler) attempt(a orchestrator.Attempt, id *int64) {
	r := c.commit.Run
	if a.ID != 0 {
		c.add(`UPDATE attempts SET ended = $3, outcome = $4, kind = $5, message = $6, detail = $7, handles = $8 WHERE id = $1 AND run = $2`,
			a.ID, r.ID, micros(a.Ended), a.Outcome, string(a.Kind), a.Message, string(a.Detail), handles(a.Handles))
		return
	}
	stmt := insertAttempt(a, r.ID, r.Machine)
	if id != nil {
		stmt.SQL += ` RETURNING id`
		stmt.Scan = func(row Row) error { return row.Scan(id) }
	}
	c.stmts = append(c.stmts, stmt)
}

func insertAttempt(a orchestrator.Attempt, run, machine string) Stmt {
	return Stmt{
		SQL: `INSERT INTO attempts (run, machine, step, from_state, to_state, number, undo, started, ended, outcome, kind, message, detail, actor, handles)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		Args: []any{run, machine, a.Step, string(a.From), string(a.To), a.Number, flag(a.Undo), micros(a.Started), micros(a.Ended), a.Outcome,
			string(a.Kind), a.Message, string(a.Detail), a.Actor, handles(a.Handles)},
	}
}

// event inserts one event of the machine; back says how many of the same commit follow it. The machine's row has been counted up and is
// locked by then, so that ids rise with the numbers and no later number is visible before an earlier one.
func (c *compiler) event(e orchestrator.Event, back int) {
	c.add(`INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data)
		SELECT $2, id, seq - $3, $4, $5, $6, $7 FROM machines WHERE id = $1`,
		c.commit.Run.Machine, e.Type, back, micros(e.Time), e.Order.Source, e.Order.ID, string(e.Data))
}

// successor starts the run that was promised to an uninstall: from the order, which knows how it begins, so that it is not lost either
// when its predecessor ended before it heard of it.
func (c *compiler) successor() {
	r := c.commit.Run
	if next := c.commit.Next; next != nil {
		n := *next
		n.Machine = r.Machine
		c.stmts = append(c.stmts, insertRun(n))
	}
	if !r.Status.Active() {
		c.add(`INSERT INTO runs (id, machine, process, state, status, step, row_hash, attempt, step_since, deadline, order_source, order_id, created_at, updated_at)
			SELECT o.run, r.machine, o.process, o.state, 'ready', o.step, o.row_hash, 1, {now}, o.deadline, o.source, o.id, {now}, {now}
			FROM runs r JOIN orders o ON o.run = r.successor_id
			WHERE r.id = $1 AND r.successor_id <> '' AND NOT EXISTS (SELECT 1 FROM runs n WHERE n.id = r.successor_id)`, r.ID)
	}
}

// insertRun starts a run. Its order is the one that asked for this run id, unless it says so itself.
func insertRun(r orchestrator.Run) Stmt {
	return Stmt{
		SQL: `INSERT INTO runs (id, machine, process, state, status, step, row_hash, attempt, step_since, wake_at, alteration, deadline, order_source, order_id, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $14,
			COALESCE((SELECT deadline FROM orders WHERE run = $1), $11),
			COALESCE((SELECT source FROM orders WHERE run = $1), $12),
			COALESCE((SELECT id FROM orders WHERE run = $1), $13), {now}, {now})`,
		Args: []any{r.ID, r.Machine, r.Process, string(r.State), string(orchestrator.StatusReady), r.Step, r.RowHash, max(r.Attempt, 1), micros(r.StepSince),
			micros(r.WakeAt), micros(r.Deadline), r.Order.Source, r.Order.ID, filled(r.Alteration)},
	}
}

// wake makes runs due that wait for a key.
func wake(keys ...string) Stmt {
	return Stmt{SQL: `UPDATE runs SET wake_at = {now} WHERE id IN
		(SELECT id FROM runs WHERE wake_key IN {list $1} AND status IN ('waiting', 'canceling') AND holder = '' {skip})`, Args: []any{list(keys)}}
}
