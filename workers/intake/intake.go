// Package intake takes orders in: a delivery becomes a committed run, or a refusal that its panel hears of, and only then is it
// acknowledged.
package intake

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
	"slipway/workers/console"
	"slipway/workers/intake/message"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/winrm"
	"slipway/workers/queue"
)

// retryAfter is how long an order stays with us while the database is away: nothing more is consumed meanwhile.
const retryAfter = 5 * time.Second

// Config is what an Intake needs.
type Config struct {
	Store     orchestrator.Intake
	Estate    *orchestrator.Estate
	Vault     orchestrator.Vault
	Processes map[string]*orchestrator.Process
	// Installable, when set, refuses an install that its image's post-install could never carry out; a refusal is FieldErrors.
	Installable func(orchestrator.Order) error
	// Changeable, when set, refuses what a machine's guest can never take; a refusal is FieldErrors.
	Changeable func(orchestrator.Machine, orchestrator.Order) error
	// Administered, when set, says of which images a machine gets an administrator's password.
	Administered func(image string) bool
	// Consoles, when set, are the machines' pages at the console gateway; without it orders for a console are refused.
	Consoles Consoles
	// Backlog, when set, keeps the orders of the queue whose tenant has TenantRuns under way; Admit takes them later.
	Backlog    orchestrator.Backlog
	TenantRuns int
	Log        *slog.Logger
	Accepted   func() // called after a run was committed
	Now        func() time.Time
	// Tries is how often this worker tries an order that fails though the database is there; default 8, which takes ten minutes. Pause is
	// the first one between two, doubled each time up to queue.MaxDelay; default 5 s.
	Tries int
	Pause time.Duration
	NewID func() string // of machines and runs; default is a version 7 uuid
	Rand  io.Reader     // of host keys and passwords; default crypto/rand
}

// Consoles is the console gateway, as far as an order needs it.
type Consoles interface {
	// Page is a machine's page, which a token behind a # opens.
	Page(machine string) string
	// TokenLife is how long a token waits for its viewer.
	TokenLife() time.Duration
}

// Intake turns orders into runs. Safe for concurrent use.
type Intake struct {
	Config
	failures *failures
	limits   *limits // nil without a backlog
}

// New makes an Intake.
func New(c Config) *Intake {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Accepted == nil {
		c.Accepted = func() {}
	}
	if c.Tries == 0 {
		c.Tries = 8
	}
	if c.Pause == 0 {
		c.Pause = 5 * time.Second
	}
	if c.NewID == nil {
		c.NewID = newID
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	i := &Intake{Config: c, failures: &failures{counts: map[[sha256.Size]byte]int{}}}
	if c.Backlog != nil {
		i.limits = &limits{backlog: c.Backlog, most: c.TenantRuns, now: c.Now, loads: map[string]*load{}}
	}
	return i
}

// Handle is a queue.Handler: it acknowledges what is committed, lays aside what can never be carried out, and keeps the rest for later: for
// as long as it takes while the database is away, and up to Tries times, each after a longer pause, when the order fails in another way.
// After that it is laid aside too, so that one order that the store cannot take does not hold a place in every worker for ever.
func (i *Intake) Handle(ctx context.Context, d queue.Delivery) queue.Verdict {
	err := i.guarded(func() error { return i.receive(ctx, d.Body) })
	var fields orchestrator.FieldErrors
	switch {
	case err == nil:
		i.failures.forget(d.Body)
		return queue.Ack()
	case errors.As(err, &fields):
		i.failures.forget(d.Body)
		return queue.Dead(fields.Error())
	case errors.Is(err, orchestrator.ErrStoreAway) || ctx.Err() != nil:
		i.Log.Warn("order kept for later", "error", err)
		return queue.Requeue(retryAfter)
	default:
		return i.again(d.Body, err)
	}
}

// Take commits an order, given as a CloudEvent. orchestrator.FieldErrors refuse it for good, after its panel was told as far as it can be
// known; any other error means that nothing was taken and the order should come again.
func (i *Intake) Take(ctx context.Context, body []byte, actor string) (orchestrator.Accepted, error) {
	order, err := i.read(ctx, body)
	if err != nil {
		return orchestrator.Accepted{}, err
	}
	return i.accept(ctx, order, actor)
}

// read refuses what can be refused without the store.
func (i *Intake) read(ctx context.Context, body []byte) (orchestrator.Order, error) {
	order, err := message.ParseOrder(body)
	if err == nil {
		err = i.check(order)
	}
	if err != nil {
		return order, i.refuse(ctx, order, err)
	}
	return order, nil
}

func (i *Intake) accept(ctx context.Context, order orchestrator.Order, actor string) (orchestrator.Accepted, error) {
	acceptance, err := i.acceptance(order, actor)
	if err != nil {
		return orchestrator.Accepted{}, err
	}
	accepted, err := i.Store.Accept(ctx, acceptance)
	if err != nil {
		return orchestrator.Accepted{}, i.refuse(ctx, order, err)
	}
	i.Log.Info("order", "source", order.Source, "order", order.ID, "machine", accepted.Machine, "run", accepted.Run, "repeated", accepted.Repeated, "differs", accepted.Differs)
	i.Accepted()
	return accepted, nil
}

// check refuses what can never be carried out: all of it at once, of each field what the installer says before what the estate says.
func (i *Intake) check(order orchestrator.Order) error {
	var all orchestrator.FieldErrors
	collect := func(err error) error {
		var fields orchestrator.FieldErrors
		if err != nil && !errors.As(err, &fields) {
			return err
		}
		for _, f := range fields {
			if !slices.ContainsFunc(all, func(said orchestrator.FieldError) bool { return said.Field == f.Field }) {
				all = append(all, f)
			}
		}
		return nil
	}
	if order.Type == orchestrator.OrderConsole && i.Consoles == nil {
		all = append(all, orchestrator.FieldError{Field: "type", Problem: "asks for a console, and this site shows none", Fix: "have the operator set console.listen and console.url"})
	}
	if i.Installable != nil && order.Type == orchestrator.OrderInstall {
		if err := collect(i.Installable(order)); err != nil {
			return err
		}
	}
	if err := collect(i.Estate.Check(order)); err != nil {
		return err
	}
	if len(all) > 0 {
		return all
	}
	return nil
}

// refuse tells the panel, when the order said who it is from, and returns why.
func (i *Intake) refuse(ctx context.Context, order orchestrator.Order, why error) error {
	var fields orchestrator.FieldErrors
	if !errors.As(why, &fields) {
		return why
	}
	i.Log.Info("order refused", "source", order.Source, "order", order.ID, "fields", len(fields))
	if order.Source == "" || order.ID == "" {
		return why
	}
	event := orchestrator.NewEvent(orchestrator.EventRefused, i.Now(), orchestrator.EventData{
		Source: order.Source, OrderID: order.ID, Message: "the order cannot be carried out", Errors: fields,
	})
	if err := i.Store.Refuse(ctx, orchestrator.OrderKey{Source: order.Source, ID: order.ID}, event); err != nil {
		return fmt.Errorf("refusal not recorded: %w", err) // comes again, and is refused again
	}
	return why
}

func (i *Intake) acceptance(order orchestrator.Order, actor string) (orchestrator.Acceptance, error) {
	now := i.Now()
	a := orchestrator.Acceptance{Order: order, Actor: actor, Now: now}
	if order.Type == orchestrator.OrderUninstall {
		a.Run = i.Processes[uninstall.Name].NewRun(i.NewID(), "", order, now)
		return a, nil
	}
	if order.Type.Alters() {
		a.Run = i.Processes[strings.TrimPrefix(string(order.Type), "slipway.order.")].NewRun(i.NewID(), "", order, now)
		a.Alter = func(m orchestrator.Machine) (orchestrator.Alteration, error) { return i.alter(order, m) }
		return a, nil
	}
	if order.Type == orchestrator.OrderConsole {
		a.Run.ID, a.PassLife = newID(), i.Consoles.TokenLife()
		a.Page = func(m orchestrator.Machine) string { return i.Consoles.Page(m.ID) }
		return a, nil
	}
	machine, err := i.machine(order, now)
	if err != nil {
		return a, err
	}
	a.Machine = machine
	a.Run = i.Processes[install.Name].NewRun(i.NewID(), machine.ID, order, now)
	return a, nil
}

// alter is asked by the store once it knows the machine.
func (i *Intake) alter(order orchestrator.Order, m orchestrator.Machine) (orchestrator.Alteration, error) {
	if i.Changeable != nil {
		if err := i.Changeable(m, order); err != nil {
			return orchestrator.Alteration{}, err
		}
	}
	var password orchestrator.Secret
	a, err := order.Alteration(m, func(m orchestrator.Machine) (_ orchestrator.Sealed, err error) {
		if password, err = console.NewPassword(i.Rand); err != nil {
			return nil, err
		}
		return i.Vault.Seal(m.ID, orchestrator.SealedConsole, password)
	})
	if err == nil && !password.IsZero() {
		a.Wanted.ConsoleAge, err = encryptTo(a.Wanted.SSHKeys, password)
	}
	return a, err
}

// machine is made with its secrets, so that the core needs no randomness.
func (i *Intake) machine(order orchestrator.Order, now time.Time) (orchestrator.Machine, error) {
	m := orchestrator.Machine{
		ID: i.NewID(), Tenant: order.Tenant, Name: order.Name, Hostname: order.GuestName(), Image: order.Image, Plan: order.Plan,
		Firewall: order.Firewall, SSHKeys: order.SSHKeys, PoolWanted: order.Pool, Presence: orchestrator.Planned,
		State: string(i.Processes[install.Name].Start()), CreatedAt: now, UpdatedAt: now,
	}
	key, public, err := postinstall.NewHostKey(i.Rand)
	if err != nil {
		return m, err
	}
	password, err := console.NewPassword(i.Rand)
	if err != nil {
		return m, err
	}
	m.HostKey = public
	if m.HostKeySecret, err = i.Vault.Seal(m.ID, orchestrator.SealedHostKey, key); err != nil {
		return m, err
	}
	if m.ConsolePassword, err = i.Vault.Seal(m.ID, orchestrator.SealedConsole, password); err != nil {
		return m, err
	}
	if m.ConsoleAge, err = encryptTo(m.SSHKeys, password); err != nil {
		return m, err
	}
	if i.Administered != nil && i.Administered(m.Image) {
		err = i.administer(&m)
	}
	return m, err
}

// administer gives a machine its administrator's first password: sealed for us, and encrypted for the customer.
func (i *Intake) administer(m *orchestrator.Machine) error {
	password, err := winrm.NewPassword(i.Rand)
	if err != nil {
		return err
	}
	if m.AdministratorAge, err = encryptTo(m.SSHKeys, password); err != nil {
		return err
	}
	m.AdministratorPassword, err = i.Vault.Seal(m.ID, orchestrator.SealedAdmin, password)
	return err
}

// newID is a version 7 uuid: it sorts by time, which keeps indexes and lists in order.
func newID() string { return uuid.Must(uuid.NewV7()).String() }
