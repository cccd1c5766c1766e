package postgres

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestServerIsVerifiedUnlessSaidOtherwise: a server on another machine proves who it is, and every address of several does.
func TestServerIsVerifiedUnlessSaidOtherwise(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for dsn, want := range map[string]struct {
		verified bool
		weak     string
	}{
		"postgres://u@db.example.net/x":                               {true, ""},
		"postgres://u@192.0.2.7/x":                                    {true, ""},
		"postgresql://u:p%40ss@db1.example.net,db2.example.net/x":     {true, ""},
		"postgres://u@127.0.0.1,db2.example.net/x":                    {true, ""},
		"postgres://u@db.example.net/x?sslmode=verify-full":           {true, ""},
		"postgres://u@db.example.net/x?application_name=a":            {true, ""},
		"postgres://u@db.example.net/x?sslmode=disable":               {false, "disable"},
		"postgres://u@db.example.net/x?sslmode=prefer":                {false, "prefer"},
		"postgres://u@db.example.net/x?sslmode=require":               {false, "require"},
		"postgres://u@127.0.0.1/x":                                    {false, ""},
		"postgres://u@localhost/x":                                    {false, ""},
		"postgres://u@%2Fvar%2Frun%2Fpostgresql/x":                    {false, ""},
		"postgres://u@/x?host=/var/run/postgresql&sslmode=disable":    {false, ""},
		"postgres://u@[::1]:5432/x?sslmode=disable&connect_timeout=1": {false, ""},
	} {
		config, err := parse(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		all := []*pgconn.FallbackConfig{{Host: config.ConnConfig.Host, TLSConfig: config.ConnConfig.TLSConfig}}
		all = append(all, config.ConnConfig.Fallbacks...)
		for _, f := range all {
			proves := f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify && f.TLSConfig.ServerName == f.Host
			if want.verified && !proves {
				t.Errorf("%s: %s need not prove who it is", dsn, f.Host)
			}
		}
		if weak := Unverified(dsn); weak != want.weak {
			t.Errorf("%s: said to be %q, want %q", dsn, weak, want.weak)
		}
	}
	t.Setenv("PGSSLMODE", "require")
	if weak := Unverified("postgres://u@db.example.net/x"); weak != "require" {
		t.Errorf("from the environment: %q", weak)
	}
}
