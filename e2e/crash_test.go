package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"slipway/internal/testenv"
	"slipway/internal/testserver"
)

// crash is a site whose every part is killed while it works.
type crash struct {
	t        *testing.T
	s        *site
	database *testserver.Database
	broker   *testserver.Broker
	url      string // of the broker, as the panel reaches it
	names    []string
	workers  map[string]*worker
	desk     *desk
	kills    []killed
	leases   map[int64]int64 // when the lease ended that a killed worker had on the run of an open attempt, by the attempt
	final    map[string]bool // orders that are expected
}

// crashLease is the workers': what a worker held that dies is taken over after it.
const crashLease = 5 * time.Second

// environment is a number that a variable gives.
func environment(t *testing.T, name string, other uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return other
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// Workers, broker, database, XenAPI masters, agents and SSH servers are killed by a plan while machines are ordered and ordered away. In the
// end every order has had its last event, every machine is there once, and nothing is left of those that have gone: as the four worlds
// show it, whatever slipway believes. `make crash` is the same with 200 installs.
func TestCrash(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	installs, seed := int(environment(t, "SLIPWAY_CRASH_INSTALLS", 12)), environment(t, "SLIPWAY_CRASH_SEED", 1)
	if installs < 5 || installs > 900 {
		t.Fatalf("SLIPWAY_CRASH_INSTALLS=%d: want 5 to 900, for which the site has addresses", installs)
	}
	plan, leave := planCrash(seed, installs)
	c := newCrash(t, installs, leave)
	began := time.Now()
	c.carryOut(plan)
	c.awaitEnd(4 * time.Minute)
	c.report(seed, installs, len(leave), time.Since(began))
}

func newCrash(t *testing.T, installs int, leave []int) *crash {
	t.Helper()
	c := &crash{
		t: t, database: testserver.NewPostgreSQL(t), broker: testserver.NewRabbitMQ(t), names: []string{"one", "two", "three"},
		workers: map[string]*worker{}, leases: map[int64]int64{}, final: map[string]bool{},
	}
	c.url = c.broker.URL(t)
	c.s = newSite(t, siteConfig{
		pools: 2, lease: crashLease, postgres: c.database.DSN(t), rabbitmq: c.url,
		apart: &delays{"VDI.clone": 250 * time.Millisecond, "VM.start_on": 250 * time.Millisecond, "VM.hard_shutdown": 100 * time.Millisecond},
	})
	for _, name := range c.names {
		c.workers[name] = c.s.serve(name)
	}
	leaving := map[string]bool{}
	for _, n := range leave {
		leaving[installOrder(n)] = true
		c.final[leaveOrder(n)] = true
	}
	c.desk = openDesk(t, c.url, installs+len(leave), leaving, func(install, machine string) []byte {
		return newOrder("leave-"+install, "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": machine}).json(t)
	})
	return c
}

func installOrder(n int) string { return fmt.Sprintf("order-%04d", n) }
func leaveOrder(n int) string   { return "leave-" + installOrder(n) }

// carryOut does what the plan says, and brings everything back.
func (c *crash) carryOut(plan []strike) {
	c.t.Helper()
	_, key := keyPair(c.t)
	var down []func()
	ordered := 0
	for _, s := range plan {
		for ; ordered < s.ordered; ordered++ {
			c.final[installOrder(ordered+1)] = true
			c.desk.orders <- install(ordered+1, key).json(c.t)
		}
		pause(c.t, s.after)
		began := time.Now()
		k, back := c.kill(s)
		if s.victim == victimDatabase || s.victim == victimBroker {
			down = slices.Insert(down, 0, back) // what the others need to come back
		} else {
			down = append(down, back)
		}
		c.t.Logf("kill %d of %d, %d orders under way: %s: %s", len(c.kills)+1, len(plan), c.underWay(), k.victim, k.doing)
		if !s.overlap {
			pause(c.t, s.down)
			for _, back := range down {
				back()
			}
			down = nil
		}
		k.away = time.Since(began)
		c.kills = append(c.kills, k)
	}
	c.t.Logf("all orders are given and all kills done; %d orders have no final event yet", c.underWay())
}

// ended are the final events that were heard, by order: their ids.
func (c *crash) ended() map[string][]event {
	out, seen := map[string][]event{}, map[string]bool{}
	for _, e := range c.desk.heard() {
		switch e.Type {
		case "slipway.run.done", "slipway.run.canceled", "slipway.order.refused", "slipway.order.conflict":
			if !seen[e.ID] {
				seen[e.ID] = true
				out[e.Data.Order] = append(out[e.Data.Order], e)
			}
		}
	}
	return out
}

// underWay is how many orders were given and have no final event. A machine is ordered away once its install has one.
func (c *crash) underWay() int {
	ended, n := c.ended(), 0
	for order := range c.final {
		install, leaves := strings.CutPrefix(order, "leave-")
		if len(ended[order]) == 0 && (!leaves || len(ended[install]) > 0) {
			n++
		}
	}
	return n
}

// awaitEnd waits until every order has had its final event and nobody has anything in hand, or until a run is parked, which it should not
// be: nothing here needs an operator.
func (c *crash) awaitEnd(limit time.Duration) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); ; pause(c.t, 200*time.Millisecond) {
		busy, ok := c.number(`SELECT count(*) FROM runs WHERE status NOT IN ('done', 'canceled')`)
		stuck, _ := c.number(`SELECT count(*) FROM runs WHERE status = 'parked'`)
		late, _ := c.number(`SELECT count(*) FROM outbox WHERE published_at = 0`)
		behind, _ := c.number(`SELECT count(*) FROM members m JOIN appliance_groups g ON g.id = m.group_id WHERE m.applied < g.generation OR m.dirty <> 0 OR m.halted <> ''`)
		if ok && busy+late+behind == 0 && c.underWay() == 0 {
			return
		}
		if stuck > 0 || time.Now().After(deadline) {
			c.t.Logf("%d runs are under way, %d parked, %d events unpublished, %d appliances behind, %d orders without a final event", busy, stuck, late, behind, c.underWay())
			c.ask(`SELECT order_id, process, status, step, attempt, kind, reason, holder FROM runs WHERE status NOT IN ('done', 'canceled') ORDER BY created_at LIMIT 20`, nil, func(rows pgx.Rows) error {
				var order, process, status, step, kind, reason, holder string
				var attempt int
				err := rows.Scan(&order, &process, &status, &step, &attempt, &kind, &reason, &holder)
				c.t.Logf("%s: %s is %s at %s, attempt %d: %s %s (%s)", order, process, status, step, attempt, kind, reason, holder)
				return err
			})
			c.t.Errorf("not everything came to its end within %s", limit)
			return // what there is is counted all the same
		}
	}
}

// report counts, prints the tables, and ends with the line.
func (c *crash) report(seed uint64, installs, uninstalls int, took time.Duration) {
	c.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s\n\n%-15s %6s %8s  %s\n", seed, took.Round(time.Second), "victim", "kills", "at work", "the last one")
	for _, victim := range victims {
		n, busy, last := 0, 0, ""
		for _, k := range c.kills {
			if k.victim == victim {
				n, last = n+1, k.doing
				if k.busy {
					busy++
				}
			}
		}
		fmt.Fprintf(&b, "%-15s %6d %8d  %s\n", victim, n, busy, last)
		if n == 0 {
			c.t.Errorf("no %s was killed", victim)
		}
	}
	if text := c.takeovers(); text != "" {
		fmt.Fprintf(&b, "\n%s\n", text)
	}
	lost, leaked, duplicated := c.count()
	for what, lines := range map[string][]string{"lost": lost, "leaked": leaked, "duplicated": duplicated} {
		for _, line := range lines {
			c.t.Errorf("%s: %s", what, line)
		}
	}
	fmt.Fprintf(&b, "\ncrash: installs=%d uninstalls=%d kills=%d lost=%d leaked=%d duplicated=%d\n", installs, uninstalls, len(c.kills), len(lost), len(leaked), len(duplicated))
	c.t.Log("\n" + b.String())
	if file := os.Getenv("SLIPWAY_CRASH_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			c.t.Error(err)
		}
	}
}

// takeovers is how long after their leases' ends the runs were taken up again that killed workers had in hand: the journal has the moment
// at which the next holder ended the attempt.
func (c *crash) takeovers() string {
	var ids []int64
	for id := range c.leases {
		ids = append(ids, id)
	}
	var after []time.Duration
	open := 0
	c.ask(`SELECT id, ended, outcome FROM attempts WHERE id = ANY($1)`, []any{ids}, func(rows pgx.Rows) error {
		var id, ended int64
		var outcome string
		if err := rows.Scan(&id, &ended, &outcome); err != nil {
			return err
		}
		switch {
		case outcome == "open":
			open++
		case outcome == "interrupted":
			after = append(after, time.Duration(ended-c.leases[id])*time.Microsecond)
		}
		return nil
	})
	if open > 0 {
		c.t.Errorf("%d attempts of killed workers are still open", open)
	}
	if len(after) == 0 {
		return ""
	}
	slices.SortFunc(after, cmp.Compare)
	return fmt.Sprintf("takeover: %d steps that killed workers were in were taken up %s (median) and %s (longest) after their leases' ends",
		len(after), after[len(after)/2].Round(time.Millisecond), after[len(after)-1].Round(time.Millisecond))
}
