package orchestrator

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrNotRunning is in the chain of a Display's error when the machine has no screen because it is off.
var ErrNotRunning = errors.New("the machine is not running")

// ErrDisplayPlace is in the chain of a Display's error when the pool says of a screen's place what cannot be, such as another host than the
// machine's. Trying again helps once the pool says something else.
var ErrDisplayPlace = errors.New("the pool names no usable place for the screen")

// Display opens the screens of machines.
type Display interface {
	// OpenDisplay connects to the screen of a running machine on the host where it is at this moment. The connection carries RFB
	// (RFC 6143) from its first byte on, and can be read on after a read deadline passed; the caller closes it. It breaks when the machine stops, restarts or moves: open it again then.
	// Kinds: Transient with ErrNotRunning while the machine is off or with ErrDisplayPlace, Transient when its host does not answer,
	// Permanent when the VM is not the machine's.
	OpenDisplay(ctx context.Context, ref MachineRef) (net.Conn, error)
}

// Why a console pass does not open. A pass that nobody issued is ErrNotFound.
var (
	ErrPassUsed    = errors.New("the link has been used already")
	ErrPassExpired = errors.New("the pass has expired")
	ErrPassRevoked = errors.New("the pass was revoked")
	ErrPassAddress = errors.New("the pass was issued for another address")
)

// PassHash is the SHA-256 of a pass's 32 random bytes: all that is kept of it.
type PassHash [32]byte

// MarshalText writes 64 hex digits.
func (h PassHash) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h[:])), nil }

// UnmarshalText reads 64 hex digits.
func (h *PassHash) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(h[:], text[:min(len(text), 64)]); err != nil || n != len(h) || len(text) != 64 {
		return errors.New("is not 64 hex digits")
	}
	return nil
}

// MaxViewer is how many characters a viewer's name has at most.
const MaxViewer = 128

// CheckViewer says what is wrong with a viewer's name, "" when nothing is.
func CheckViewer(name string) string {
	n := utf8.RuneCountInString(name)
	switch {
	case n == 0:
		return "is empty"
	case n > MaxViewer:
		return fmt.Sprintf("has %d characters", n)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, isControl):
		return "holds what cannot be printed"
	}
	return ""
}

// ConsolePass lets one user see one machine's screen. A token is handed out and opens once, for a session; a session is what the user's
// browser keeps.
type ConsolePass struct {
	Machine string
	User    string     // as whoever asked for it names him; for the audit trail
	Address netip.Addr // zero: from anywhere
	Expires time.Time  // by the store's clock
}

// ConsolePasses keeps who may look at which screen; every Store is one. A console entry that is dropped or changes, and a machine that is
// absent, revoke the machine's passes in the same transaction.
type ConsolePasses interface {
	// IssueToken keeps a token that opens once within life. The machine must be there: ErrNotFound when it is not known, Permanent when
	// it is recorded absent or suspended. Expires is set by the store.
	IssueToken(ctx context.Context, token PassHash, p ConsolePass, life time.Duration, actor string) (ConsolePass, error)
	// RedeemToken exchanges a token for a session of at most age, once, whoever tries at the same moment. machine is the one whose page
	// asks and from the user's address.
	RedeemToken(ctx context.Context, token, session PassHash, machine string, from netip.Addr, age time.Duration) (ConsolePass, error)
	// Session returns a session that opens the machine's screen from that address at this moment, or says why it does not.
	Session(ctx context.Context, session PassHash, machine string, from netip.Addr) (ConsolePass, error)
	// RevokePasses ends every token and session of a machine and returns how many that were.
	RevokePasses(ctx context.Context, machine, actor, reason string) (int, error)
}

// ConsoleBackend is what shows a pool's machines at their console ports.
type ConsoleBackend string

const (
	// ConsoleXVP: xvp hosts, whose file the agents of the pool's console groups keep. What a pool has that nothing else is said of.
	ConsoleXVP ConsoleBackend = "xvp"
	// ConsoleGateway: the project's own gateways, which read the entries of the console groups from the store.
	ConsoleGateway ConsoleBackend = "gateway"
)

// IsValid reports whether there is such a backend.
func (b ConsoleBackend) IsValid() bool { return b == ConsoleXVP || b == ConsoleGateway }

// ConsoleBackends keeps which backend shows which pool's consoles, and what the gateways say of themselves; every Store is one.
//
// A move changes no entry: machine, port, password and passes stay, and Entry.Backend says whose they are from the group's next generation on.
type ConsoleBackends interface {
	// ConsoleBackends returns what is known; a pool that is not in it is ConsoleXVP.
	ConsoleBackends(ctx context.Context) (map[string]ConsoleBackend, error)
	// SyncConsoleBackends makes the configuration's choice known for pools of which none is, and which have no machine with a console: where
	// machines are, only MoveConsoles moves them.
	SyncConsoleBackends(ctx context.Context, wanted map[string]ConsoleBackend) error
	// MoveConsoles gives a pool's consoles to a backend: the groups that have machines of the pool rise by a generation, which the shrink
	// guard lets through, as it does the few after it, lest an install that comes between stop the move. It returns how many machines those
	// are, also when the pool was there already, which changes nothing.
	MoveConsoles(ctx context.Context, pool string, to ConsoleBackend, actor, reason string) (machines int, err error)
	// ReportGateway records how far a gateway has come with a group; the report counts for life. A life of 0 withdraws it.
	ReportGateway(ctx context.Context, r GatewayReport, life time.Duration) error
	// GatewayReports returns the reports on a group that count, by holder.
	GatewayReports(ctx context.Context, group string) ([]GatewayReport, error)
}

// GatewayReport is what a gateway says of one console group.
type GatewayReport struct {
	Group, Holder string
	Generation    int64  // it listens on what this one has for it, and on nothing else
	Ports         int    // that it listens on
	Problem       string // why it does not listen on some, "" when it does on all
}
