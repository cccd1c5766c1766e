// Package testserver starts the real RabbitMQ and PostgreSQL for tests: private instances under a directory of their own, on free
// loopback ports, with nothing of the machine's configuration read or changed.
//
// [RabbitMQ] and [PostgreSQL] share one instance per test process and give each test a fresh virtual host or database. A test that kills
// or stops its server takes one of its own with [NewRabbitMQ] or [NewPostgreSQL]. A package that uses the shared ones has
//
//	func TestMain(m *testing.M) { testserver.Main(m) }
//
// which stops and removes them at the end. A test process that dies without reaching its end (a timeout, a panic, kill -9) is survived
// by a guard process per server that ends the server and removes its directory.
package testserver

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"slipway/internal/testenv"
)

// shared holds the instances of this test process. It is package state because a test process is what shares them.
var shared struct {
	mu       sync.Mutex
	running  bool // Main is running the tests
	rabbitmq *Broker
	postgres *Database
}

// Main runs the tests of a package, stops and removes the shared servers, does what else is to be done after them, and exits. Goroutines
// that are left at the end of tests that passed are printed and make it fail.
func Main(m *testing.M, after ...func() error) {
	shared.mu.Lock()
	shared.running = true
	shared.mu.Unlock()

	code := m.Run()

	shared.mu.Lock()
	defer shared.mu.Unlock()
	if b := shared.rabbitmq; b != nil {
		code = max(code, complain("remove RabbitMQ", b.remove()))
	}
	if d := shared.postgres; d != nil {
		code = max(code, complain("remove PostgreSQL", d.remove()))
	}
	for _, f := range after {
		code = max(code, complain("clean up", f()))
	}
	if code == 0 {
		code = complain("after the tests", goleak.Find())
	}
	os.Exit(code) //nolint:gocritic // the deferred unlock does not matter any more
}

func complain(what string, err error) int {
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(os.Stderr, "testserver: %s: %v\n", what, err)
	return 1
}

// RabbitMQ returns the AMQP URL of a fresh virtual host on the broker that this test process shares. The user may do everything there.
func RabbitMQ(tb testing.TB) (url string) {
	tb.Helper()
	return SharedRabbitMQ(tb).URL(tb)
}

// SharedRabbitMQ is the broker behind [RabbitMQ], for a test that wants its TLS listener. It is nobody's to stop.
func SharedRabbitMQ(tb testing.TB) *Broker {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	needMain(tb)
	if shared.rabbitmq == nil {
		shared.rabbitmq = startRabbitMQ(tb)
	}
	return shared.rabbitmq
}

// PostgreSQL returns the connection string of a fresh database on the server that this test process shares. The database is dropped at
// the end of the test, with the connections that are still open.
func PostgreSQL(tb testing.TB) (dsn string) {
	tb.Helper()
	shared.mu.Lock()
	needMain(tb)
	if shared.postgres == nil {
		shared.postgres = startPostgreSQL(tb, nil, 0)
	}
	d := shared.postgres
	shared.mu.Unlock()
	return d.DSN(tb)
}

func needMain(tb testing.TB) {
	tb.Helper()
	if !shared.running {
		tb.Fatal("the shared servers are stopped by testserver.Main: write `func TestMain(m *testing.M) { testserver.Main(m) }` in this package")
	}
}

// NewRabbitMQ starts a broker of the test's own, to be killed and restarted at will; it is removed when the test ends.
func NewRabbitMQ(tb testing.TB) *Broker {
	tb.Helper()
	b := startRabbitMQ(tb)
	tb.Cleanup(func() {
		if err := b.remove(); err != nil {
			tb.Errorf("remove RabbitMQ: %v", err)
		}
	})
	return b
}

// NewPostgreSQL starts a server of the test's own, to be killed and restarted at will; it is removed when the test ends. Settings are
// "name=value" as in postgresql.conf and win over the defaults here, which do not wait for the disk (fsync=off): after [Database.Kill9]
// nothing is lost, after a power cut all would be.
func NewPostgreSQL(tb testing.TB, settings ...string) *Database {
	tb.Helper()
	return ownPostgreSQL(tb, settings, 0)
}

// NewSmallPostgreSQL is NewPostgreSQL with databases on a disk of so many MiB: a file system in memory, which is only in the server's own
// mount namespace and goes with it. For root; it cannot be restarted.
func NewSmallPostgreSQL(tb testing.TB, disk int) *Database {
	tb.Helper()
	testenv.NeedRoot(tb)
	d := ownPostgreSQL(tb, nil, disk)
	d.Exec(tb, `CREATE TABLESPACE small LOCATION '`+d.small()+`'`)
	return d
}

func ownPostgreSQL(tb testing.TB, settings []string, disk int) *Database {
	tb.Helper()
	d := startPostgreSQL(tb, settings, disk)
	tb.Cleanup(func() {
		if err := d.remove(); err != nil {
			tb.Errorf("remove PostgreSQL: %v", err)
		}
	})
	return d
}
