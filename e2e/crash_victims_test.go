package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"slipway/internal/testnet"
)

// killed is one kill that was seen to have happened: the process was gone afterwards.
type killed struct {
	victim string
	doing  string // what it was killed in
	busy   bool   // whether it was at work
	away   time.Duration
}

// busyLimit is how long a victim is given to be found at work.
const busyLimit = 5 * time.Second

// kill strikes and confirms; the returned function brings the victim back.
func (c *crash) kill(s strike) (killed, func()) {
	c.t.Helper()
	switch s.victim {
	case victimWorker:
		return c.killWorker(s)
	case victimBroker:
		return c.killBroker()
	case victimDatabase:
		return c.killDatabase()
	case victimXenAPI:
		return c.killXenAPI(s)
	case victimSwap:
		return c.killInSwap()
	case victimAgent:
		return c.killAgent(s)
	case victimSSH:
		return c.killSSH(s)
	}
	c.t.Fatalf("nobody knows how to kill %q", s.victim)
	return killed{}, nil
}

// gone waits until a process has ended: it is not there, or is dead and waits to be collected.
func (c *crash) gone(pid int) {
	c.t.Helper()
	testnet.Until(c.t, 20*time.Second, fmt.Sprintf("process %d to be gone", pid), func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		after := text[strings.LastIndexByte(string(text), ')')+1:]
		return strings.HasPrefix(string(after), " Z") || strings.HasPrefix(string(after), " X")
	})
}

func (c *crash) sigkill(pids ...int) {
	c.t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			c.t.Fatalf("kill %d: %v", pid, err)
		}
	}
	for _, pid := range pids {
		c.gone(pid)
	}
}

// ask runs one query on the database itself, and is false when it cannot be asked.
func (c *crash) ask(sql string, args []any, into func(pgx.Rows) error) bool {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.s.dsn)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return false
	}
	defer rows.Close()
	for rows.Next() {
		if err := into(rows); err != nil {
			c.t.Errorf("%s: %v", sql, err)
			return false
		}
	}
	return rows.Err() == nil
}

// number asks for one.
func (c *crash) number(sql string, args ...any) (n int, ok bool) {
	ok = c.ask(sql, args, func(rows pgx.Rows) error { return rows.Scan(&n) })
	return n, ok
}

// busy waits, but not for long, until a count is not zero; it gives up at once when nobody can be asked.
func (c *crash) busy(count func() (int, bool)) (n int) {
	for deadline := time.Now().Add(busyLimit); ; pause(c.t, 5*time.Millisecond) {
		n, ok := count()
		if n > 0 || !ok || time.Now().After(deadline) {
			return n
		}
	}
}

// killWorker kills a serve that has runs in hand, and notes their leases.
func (c *crash) killWorker(s strike) (killed, func()) {
	c.t.Helper()
	var name, holder string
	c.busy(func() (n int, ok bool) {
		for i := range c.names {
			name = c.names[(s.one+i)%len(c.names)]
			holder = fmt.Sprintf("%%:%d:%%", c.workers[name].PID())
			if n, ok = c.number(`SELECT count(*) FROM runs WHERE holder LIKE $1`, holder); n > 0 || !ok {
				break
			}
		}
		return n, ok
	})
	w := c.workers[name]
	_ = w.Kill()
	c.gone(w.PID())
	steps, held := map[string]int{}, 0
	asked := c.ask(`SELECT r.step, r.lease_until, coalesce(a.id, 0) FROM runs r LEFT JOIN attempts a ON a.run = r.id AND a.outcome = 'open' WHERE r.holder LIKE $1`, []any{holder},
		func(rows pgx.Rows) error {
			var step string
			var until, attempt int64
			err := rows.Scan(&step, &until, &attempt)
			steps[step]++
			held++
			if attempt != 0 {
				c.leases[attempt] = until
			}
			return err
		})
	k := killed{victim: s.victim, busy: held > 0, doing: fmt.Sprintf("%s had %d runs in hand: %s", name, held, counts(steps))}
	if !asked {
		k.doing = name + ", while the database was away"
	}
	return k, func() { c.workers[name] = c.s.serve(name) }
}

func counts(of map[string]int) string {
	var parts []string
	for what, n := range of {
		parts = append(parts, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (c *crash) refused(address string) {
	c.t.Helper()
	if conn, err := net.DialTimeout("tcp4", address, 5*time.Second); err == nil {
		_ = conn.Close()
		c.t.Fatalf("%s was killed and takes connections", address)
	}
}

func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Host
}

func (c *crash) killBroker() (killed, func()) {
	c.t.Helper()
	under := c.underWay()
	pid := c.broker.PID()
	c.broker.Kill9(c.t)
	c.gone(pid)
	c.refused(host(c.url))
	return killed{victim: victimBroker, busy: under > 0, doing: fmt.Sprintf("%d orders had no final event yet", under)}, func() { c.broker.Start(c.t) }
}

func (c *crash) killDatabase() (killed, func()) {
	c.t.Helper()
	transactions := c.busy(func() (int, bool) {
		return c.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`)
	})
	pid := c.database.PID()
	c.database.Kill9(c.t)
	c.gone(pid)
	c.refused(host(c.s.dsn))
	return killed{victim: victimDatabase, busy: transactions > 0, doing: fmt.Sprintf("%d transactions were open", transactions)}, func() { c.database.Start(c.t) }
}

// killXenAPI kills a pool's toolstack while it has operations under way.
func (c *crash) killXenAPI(s strike) (killed, func()) {
	c.t.Helper()
	p := c.s.pools[s.one%len(c.s.pools)]
	operations := map[string]int{}
	n := c.busy(func() (int, bool) {
		var tasks map[string]struct {
			Name   string `json:"name_label"`
			Status string `json:"status"`
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		if err := p.local.Call(ctx, "task.get_all_records", &tasks); err != nil {
			return 0, false
		}
		clear(operations)
		pending := 0
		for _, task := range tasks {
			if task.Status == "pending" {
				operations[strings.TrimPrefix(task.Name, "Async.")]++
				pending++
			}
		}
		return pending, true
	})
	process := p.apart.process
	_ = process.Kill()
	c.gone(process.PID())
	if !p.apart.refuses() {
		c.t.Fatalf("%s was killed and takes connections", p.id)
	}
	return killed{victim: s.victim, busy: n > 0, doing: fmt.Sprintf("%s had %d tasks pending: %s", p.id, n, counts(operations))}, func() { p.apart.start() }
}

// family are the processes that a process has started, and theirs.
func family(pid int) (found []int) {
	for next := []int{pid}; len(next) > 0; {
		var children []int
		for _, parent := range next {
			lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
			if err != nil {
				continue
			}
			for _, list := range lists {
				text, err := os.ReadFile(list)
				if err != nil {
					continue // it ended meanwhile
				}
				for word := range strings.FieldsSeq(string(text)) {
					if child, err := strconv.Atoi(word); err == nil {
						children = append(children, child)
					}
				}
			}
		}
		found = append(found, children...)
		next = children
	}
	return found
}

// command is a process's, nil when it is gone.
func command(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// agents are the processes of applies on an appliance: several when one waits for another's lock.
func (a *appliance) agents() (pids []int) {
	for _, pid := range family(a.process.PID()) {
		if argv := command(pid); len(argv) > 2 && argv[1] == "agent" && argv[2] == "apply" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// interrupted is whether an apply on the appliance has begun to touch it and not come to its end.
func (a *appliance) interrupted() bool {
	found, err := filepath.Glob(a.path("state/*/journal.json"))
	return err == nil && len(found) > 0
}

// killInSwap kills the agent of the DHCP server when its file has been replaced and dhcpd has been stopped, and what would start it again.
func (c *crash) killInSwap() (killed, func()) {
	c.t.Helper()
	a := c.s.dhcp
	_ = os.Remove(a.path("held")) // of a start that nobody held up
	a.write("hold", "", 0o600)
	pid := 0
	testnet.Until(c.t, time.Minute, "an agent to stand between the swap of its file and the start of dhcpd", func() bool {
		if !exists(a.path("held")) {
			return false
		}
		for _, pid = range a.agents() {
			if len(family(pid)) > 0 { // the start that is held up
				return true
			}
		}
		_ = os.Remove(a.path("held")) // of a start that took too long; one that is still held up says so again
		return false
	})
	c.sigkill(append([]int{pid}, family(pid)...)...)
	left := a.interrupted()
	for _, name := range []string{"hold", "held"} {
		if err := os.Remove(a.path(name)); err != nil && !os.IsNotExist(err) {
			c.t.Error(err)
		}
	}
	if !left {
		c.t.Error("an agent was killed between swap and start, and has left no journal")
	}
	return killed{victim: victimSwap, busy: left, doing: "dhcpd was stopped, its file replaced, the journal open"}, func() {}
}

// killAgent kills the agent of any appliance at any moment of an apply.
func (c *crash) killAgent(s strike) (killed, func()) {
	c.t.Helper()
	all := []*appliance{c.s.dhcp, c.s.firewall, c.s.console}
	var a *appliance
	testnet.Until(c.t, time.Minute, "an agent to be in an apply", func() bool {
		for i := range all {
			a = all[(s.one+i)%len(all)]
			pids := a.agents()
			if len(pids) == 0 {
				continue
			}
			pid := pids[0]
			pause(c.t, s.into)
			if len(command(pid)) == 0 {
				return false // it was done before
			}
			c.sigkill(append([]int{pid}, family(pid)...)...)
			return true
		}
		return false
	})
	left := a.interrupted()
	doing := "before its first rename or after its record"
	if left {
		doing = "the journal was open"
	}
	return killed{victim: s.victim, busy: left, doing: fmt.Sprintf("%s, %s into an apply: %s", filepath.Base(a.address), s.into.Round(time.Millisecond), doing)}, func() {}
}

// killSSH kills an appliance's sshd with all its connections.
func (c *crash) killSSH(s strike) (killed, func()) {
	c.t.Helper()
	a := []*appliance{c.s.dhcp, c.s.firewall, c.s.console}[s.one%3]
	servers := func() (pids []int) {
		for _, pid := range family(a.process.PID()) {
			if argv := command(pid); len(argv) > 0 && strings.Contains(argv[0], "sshd") {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	listening := 1
	connections := c.busy(func() (int, bool) { return max(0, len(servers())-listening), true })
	a.write("sshd.down", "", 0o600)
	c.sigkill(servers()...)
	testnet.Until(c.t, 20*time.Second, "no sshd to be left", func() bool { // a connection that came in meanwhile
		left := servers()
		c.sigkill(left...)
		return len(left) == 0
	})
	return killed{victim: s.victim, busy: connections > 0, doing: fmt.Sprintf("%s with %d processes of connections", a.address, connections)}, func() {
		if err := os.Remove(a.path("sshd.down")); err != nil {
			c.t.Error(err)
		}
		testnet.Until(c.t, 20*time.Second, "sshd to be back", func() bool { return len(servers()) > 0 })
	}
}
