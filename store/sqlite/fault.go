package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"regexp"

	driversqlite "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"slipway/store/internal/sqlstore"
)

// errDiscard makes database/sql throw a connection away.
var errDiscard = driver.ErrBadConn

// SQLite says "CHECK constraint failed: name", "UNIQUE constraint failed: table.column, table.column", "NOT NULL constraint failed:
// table.column", "FOREIGN KEY constraint failed", and for RAISE(ABORT, 'name') the name alone.
var refusal = regexp.MustCompile(`^constraint failed: (?:(?:CHECK|UNIQUE|NOT NULL) constraint failed: )?(.*) \([0-9]+\)$`)

// uniques names unique indexes by their columns, as the schema does.
var uniques = map[string]string{
	"machines.id":                       "machines_pkey",
	"machines.tenant, machines.name":    "machine_name",
	"machines.identity":                 "machine_identity",
	"runs.id":                           "runs_pkey",
	"runs.machine":                      "run_active",
	"orders.run":                        "order_run",
	"outbox.machine, outbox.seq":        "outbox_seq",
	"addresses.address":                 "addresses_pkey",
	"addresses.machine, addresses.role": "address_of_machine",
	"macs.mac":                          "macs_pkey",
	"macs.machine":                      "mac_of_machine",
	"console_ports.console_group, console_ports.port": "port_key",
	"console_ports.machine":                           "port_of_machine",
	"reservations.machine":                            "reservation_machine",
}

// isBusy reports that another process writes.
func isBusy(err error) bool {
	var failure *driversqlite.Error
	return errors.As(err, &failure) && failure.Code()&0xff == lib.SQLITE_BUSY
}

// isDamaged reports that the file's contents are not those of a whole database.
func isDamaged(err error) bool {
	var failure *driversqlite.Error
	return errors.As(err, &failure) && (failure.Code()&0xff == lib.SQLITE_CORRUPT || failure.Code()&0xff == lib.SQLITE_NOTADB)
}

// Fault implements sqlstore.DB.
func (db *database) Fault(err error) sqlstore.Fault { return fault(err) }

func fault(err error) sqlstore.Fault {
	var failure *driversqlite.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, sql.ErrConnDone), errors.Is(err, driver.ErrBadConn):
		return sqlstore.Fault{Away: true}
	case !errors.As(err, &failure):
		return sqlstore.Fault{}
	}
	if failure.Code() == lib.SQLITE_IOERR_SHMSIZE { // no room for the index of the write-ahead log
		return sqlstore.Fault{Away: true, Full: true}
	}
	switch failure.Code() & 0xff {
	case lib.SQLITE_CONSTRAINT:
		name := failure.Error()
		if m := refusal.FindStringSubmatch(name); m != nil {
			name = m[1]
		}
		if index, ok := uniques[name]; ok {
			name = index
		}
		return sqlstore.Fault{Constraint: name}
	case lib.SQLITE_FULL:
		return sqlstore.Fault{Away: true, Full: true}
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_IOERR, lib.SQLITE_CANTOPEN, lib.SQLITE_READONLY, lib.SQLITE_CORRUPT,
		lib.SQLITE_NOTADB, lib.SQLITE_INTERRUPT, lib.SQLITE_NOMEM, lib.SQLITE_PROTOCOL, lib.SQLITE_PERM:
		return sqlstore.Fault{Away: true}
	}
	return sqlstore.Fault{}
}
