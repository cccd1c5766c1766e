package postgres

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"slipway/store/internal/sqlstore"
)

// SQLSTATEs, from the manual's appendix A.
const (
	notNullViolation     = "23502"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	readOnlyTransaction  = "25006"
	diskFull             = "53100"
)

// repeats reports that the server broke a transaction off which may be made again as it was.
func repeats(err error) bool {
	var failure *pgconn.PgError
	return errors.As(err, &failure) && (failure.Code == serializationFailure || failure.Code == deadlockDetected)
}

// isReadOnly reports that the server takes no changes: it was made a standby, or read-only, under our connection.
func isReadOnly(err error) bool {
	var failure *pgconn.PgError
	return errors.As(err, &failure) && failure.Code == readOnlyTransaction
}

// unreadable is an answer that came and could not be read: a row that no version of this program wrote.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// Fault implements sqlstore.DB. What the server did not answer with a proper error is Away: connections, deadlines, shutdowns.
func (db *database) Fault(err error) sqlstore.Fault {
	if err == nil {
		return sqlstore.Fault{}
	}
	var failure *pgconn.PgError
	var row unreadable
	switch {
	case errors.As(err, &row):
		return sqlstore.Fault{}
	case !errors.As(err, &failure):
		return sqlstore.Fault{Away: true}
	}
	switch class := failure.Code[:min(2, len(failure.Code))]; {
	case failure.Code == notNullViolation:
		return sqlstore.Fault{Constraint: failure.TableName + "." + failure.ColumnName}
	case class == "23":
		return sqlstore.Fault{Constraint: failure.ConstraintName}
	case failure.Code == diskFull:
		return sqlstore.Fault{Away: true, Full: true}
	case repeats(err), strings.Contains("08 25 53 55 57 58 XX", class), strings.HasPrefix(failure.Code, "28"):
		// connection, read-only standby, resources, lock not available, operator's intervention, system error, internal error, login
		return sqlstore.Fault{Away: true}
	}
	return sqlstore.Fault{}
}
