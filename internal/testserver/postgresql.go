package testserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"slipway/internal/testenv"
)

// Database is a private PostgreSQL server. Its methods that act on the server are for one goroutine at a time.
type Database struct {
	dir      string
	program  string
	port     int
	settings []string
	account  *syscall.Credential // nil: the server runs as we do
	guard    *guard
	server   *process // nil while stopped
	disk     int      // MiB of small(), 0 for none
	count    atomic.Int64
}

func startPostgreSQL(tb testing.TB, settings []string, disk int) *Database {
	tb.Helper()
	d := newDatabase(tb, settings)
	d.disk = disk
	initdb := testenv.Need(tb, "initdb")
	err := d.create(func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, initdb, "--pgdata", d.data(), "--username=postgres", "--auth=trust",
			"--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	})
	if err == nil && disk > 0 {
		err = os.Mkdir(d.small(), 0o700)
	}
	if err == nil {
		err = d.start()
	}
	if err != nil {
		tb.Fatalf("start PostgreSQL: %v", errors.Join(err, d.remove()))
	}
	return d
}

func newDatabase(tb testing.TB, settings []string) *Database {
	tb.Helper()
	d := &Database{program: testenv.Need(tb, "postgres"), settings: settings}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		var err error
		if d.account, err = credentialOf("postgres"); err != nil {
			tb.Fatalf("PostgreSQL does not run as root: %v", err)
		}
	}
	return d
}

// Standby starts another server that follows this one, and answers what changes nothing, until it is promoted. It ends with the test.
func (d *Database) Standby(tb testing.TB) *Database {
	tb.Helper()
	backup := testenv.Need(tb, "pg_basebackup")
	s := newDatabase(tb, d.settings)
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Errorf("remove the standby: %v", err)
		}
	})
	err := s.create(func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, backup, "--dbname", d.dsn("postgres"), "--pgdata", s.data(), "--write-recovery-conf", "--wal-method=stream",
			"--checkpoint=fast", "--no-sync")
	})
	if err == nil {
		err = s.start()
	}
	if err != nil {
		tb.Fatalf("start a standby: %v", err)
	}
	return s
}

// Promote makes a standby a server of its own.
func (d *Database) Promote(tb testing.TB) {
	tb.Helper()
	d.Exec(tb, `SELECT pg_promote(true, 60)`)
}

// Exec runs SQL as the server's superuser.
func (d *Database) Exec(tb testing.TB, sql string) {
	tb.Helper()
	if err := d.exec(sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// Address is where the server listens, host:port.
func (d *Database) Address() string { return "127.0.0.1:" + strconv.Itoa(d.port) }

func credentialOf(name string) (*syscall.Credential, error) {
	account, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// create fills the data directory with what fill does.
func (d *Database) create(fill func(context.Context) *exec.Cmd) error {
	var err error
	if d.dir, err = os.MkdirTemp("", "slipway-postgresql-"); err != nil {
		return err
	}
	if d.guard, err = startGuard(d.dir); err != nil {
		return err
	}
	if d.account != nil {
		if err := os.Chown(d.dir, int(d.account.Uid), int(d.account.Gid)); err != nil {
			return err
		}
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	d.port = ports[0]
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	cmd := d.as(fill(ctx))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

func (d *Database) data() string { return filepath.Join(d.dir, "data") }

// small is where a server that has a small disk finds it.
func (d *Database) small() string { return filepath.Join(d.dir, "small") }

// command runs the server. Its small disk is a tmpfs in a mount namespace of its own, and goes with it.
func (d *Database) command(args []string) *exec.Cmd {
	if d.disk == 0 {
		return d.as(exec.Command(d.program, args...))
	}
	const script = `mount -t tmpfs -o "size=$1m,mode=0700,uid=$2,gid=$3" none "$4" && exec setpriv --reuid="$2" --regid="$3" --clear-groups -- "$0" "${@:5}"`
	uid, gid := strconv.Itoa(int(d.account.Uid)), strconv.Itoa(int(d.account.Gid))
	cmd := d.as(exec.Command("unshare", append([]string{"--mount", "--propagation=private", "--", "bash", "-c", script, d.program, strconv.Itoa(d.disk), uid, gid, d.small()}, args...)...))
	cmd.SysProcAttr.Credential = nil // to mount; setpriv takes it on
	return cmd
}

// as lets a command run as the server's account, in the server's directory, without the caller's PG* variables.
func (d *Database) as(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = d.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + d.dir, "LC_ALL=C.UTF-8", "TZ=UTC"}
	if d.account != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.account}
	}
	return cmd
}

func (d *Database) start() error {
	args := []string{"-D", d.data()}
	for _, setting := range append([]string{
		"port=" + strconv.Itoa(d.port),
		"listen_addresses=127.0.0.1",
		"unix_socket_directories=",        // a socket's path is bounded, a test's directory is not
		"dynamic_shared_memory_type=mmap", // in the data directory, so that it goes with it
		"shared_buffers=64MB",
		"max_connections=200",
		"fsync=off",
		"full_page_writes=off",
	}, d.settings...) {
		args = append(args, "-c", setting)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	// After kill -9 the old backends may hold the shared memory for a moment, and a server that meets it ends: begin again.
	return poll(ctx, func() error {
		server, err := start(d.command(args), filepath.Join(d.dir, "log"))
		if err != nil {
			return fatal{err}
		}
		d.server = server
		if err := d.guard.watch(server); err != nil {
			return fatal{err}
		}
		if err = d.answers(ctx); err == nil {
			return nil
		}
		server.kill9()
		d.server = nil
		if !strings.Contains(server.tail(), "shared memory block") {
			return fatal{fmt.Errorf("%w\n%s", err, server.tail())}
		}
		return fmt.Errorf("it met the shared memory of the one before: %v", err) // not wrapped: its end was fatal, this is not
	})
}

func (d *Database) answers(ctx context.Context) error {
	return poll(ctx, func() error {
		if d.server.exited() {
			return fatal{errors.New("it ended by itself")}
		}
		conn, err := pgx.Connect(ctx, d.dsn("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

func (d *Database) dsn(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User("postgres"),
		Host:     d.Address(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// DSN creates a fresh database and returns its connection string. The database is dropped at the end of the test when the server runs.
func (d *Database) DSN(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d", d.count.Add(1))
	create := `CREATE DATABASE ` + name
	if d.disk > 0 {
		create += ` TABLESPACE small`
	}
	if err := d.exec(create); err != nil {
		tb.Fatalf("create a test's database: %v", err)
	}
	tb.Cleanup(func() {
		if d.server == nil {
			return // it goes with its server
		}
		if err := d.exec(`DROP DATABASE ` + name + ` WITH (FORCE)`); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return d.dsn(name)
}

func (d *Database) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// PID is the server's process id, 0 while it is stopped.
func (d *Database) PID() int {
	if d.server == nil {
		return 0
	}
	return d.server.pid()
}

// Kill9 ends the server and all its backends with SIGKILL.
func (d *Database) Kill9(tb testing.TB) {
	tb.Helper()
	d.needRunning(tb)
	d.server.kill9()
	d.server = nil
}

// Stop is an orderly fast shutdown: sessions are cut, transactions roll back.
func (d *Database) Stop(tb testing.TB) {
	tb.Helper()
	d.needRunning(tb)
	err := d.server.stop(syscall.SIGINT)
	d.server = nil
	if err != nil {
		tb.Fatalf("stop PostgreSQL: %v", err)
	}
}

// Start runs a server again that was stopped or killed, on the same port and data, and returns when it answers.
func (d *Database) Start(tb testing.TB) {
	tb.Helper()
	if d.server != nil {
		tb.Fatal("PostgreSQL runs already")
	}
	if err := d.start(); err != nil {
		tb.Fatalf("start PostgreSQL again: %v", err)
	}
}

// Restart is Stop and Start.
func (d *Database) Restart(tb testing.TB) {
	tb.Helper()
	d.Stop(tb)
	d.Start(tb)
}

func (d *Database) needRunning(tb testing.TB) {
	tb.Helper()
	if d.server == nil {
		tb.Fatal("PostgreSQL does not run")
	}
}

func (d *Database) remove() error {
	var errs []error
	if d.server != nil {
		errs = append(errs, d.server.stop(syscall.SIGQUIT)) // immediate: the data goes anyway
		d.server = nil
	}
	if d.guard != nil {
		errs = append(errs, d.guard.dismiss())
		d.guard = nil
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
		d.dir = ""
	}
	return errors.Join(errs...)
}
