package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"slipway/internal/testserver"
	"slipway/store/postgres"
	"slipway/store/storetest"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestStore(t *testing.T) {
	storetest.Exercise(t, storetest.Harness{New: func(t testing.TB) storetest.Database { return newDatabase(t) }, TripsPerCommit: 1})
}

type database struct{ dsn string }

func newDatabase(t testing.TB) database {
	t.Helper()
	dsn := testserver.PostgreSQL(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return database{dsn + "&pool_max_conns=4"}
}

func (d database) Open(t testing.TB) storetest.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (d database) do(ctx context.Context, use func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(d.dsn[:len(d.dsn)-len("&pool_max_conns=4")])
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return use(conn)
}

func (d database) Exec(ctx context.Context, text string) error {
	return d.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, text)
		return err
	})
}

func (d database) Value(ctx context.Context, text string) (n int64, err error) {
	err = d.do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, text).Scan(&n) })
	return n, err
}

func BenchmarkCommit(b *testing.B) {
	storetest.Benchmark(b, storetest.Harness{New: func(t testing.TB) storetest.Database { return newDatabase(t) }})
}

func BenchmarkHistory(b *testing.B) {
	storetest.BenchHistory(b, storetest.Harness{New: func(t testing.TB) storetest.Database { return newDatabase(t) }}, 100_000)
}
