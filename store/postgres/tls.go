package postgres

import (
	"cmp"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// What libpq does by default ("prefer") takes any certificate, and no encryption when the server wants none. Here a server on another machine
// proves by its certificate who it is, unless the address says otherwise.
const verifyFull = "verify-full"

// sslmode is what somebody asked for, "" when nobody did.
func sslmode(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return ""
	}
	return cmp.Or(u.Query().Get("sslmode"), os.Getenv("PGSSLMODE"))
}

func verified(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn // it was parsed before
	}
	q := u.Query()
	q.Set("sslmode", verifyFull)
	u.RawQuery = q.Encode()
	return u.String()
}

// hosts are all that may be connected to.
func hosts(c *pgxpool.Config) []string {
	all := []string{c.ConnConfig.Host}
	for _, f := range c.ConnConfig.Fallbacks {
		all = append(all, f.Host)
	}
	return all
}

// remote is false of a socket's directory and of loopback.
func remote(host string) bool {
	addr, err := netip.ParseAddr(host)
	return !strings.HasPrefix(host, "/") && !strings.HasPrefix(host, "@") && host != "localhost" && (err != nil || !addr.IsLoopback())
}

// Unverified is the sslmode by which the address of a server on another machine lets anybody answer, "" when it does not.
func Unverified(dsn string) string {
	mode := sslmode(dsn)
	if mode == "" || strings.HasPrefix(mode, "verify-") {
		return ""
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil || !slices.ContainsFunc(hosts(config), remote) {
		return ""
	}
	return mode
}
