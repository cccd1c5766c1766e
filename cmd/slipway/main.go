// Command slipway is the one binary: the worker (serve), the operators' verbs, the agent on appliances, the simulators and the demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// Exit codes, as docs/operations.md has them.
const (
	exitOK       = 0
	exitFailure  = 1 // it did not work; the message says why
	exitUsage    = 2 // a flag or argument is wrong
	exitRefused  = 3 // bad input; nothing was touched
	exitNotFound = 4 // no such machine, run, group or letter
	exitConflict = 5 // not in this state
	exitAway     = 6 // serve, the database or the broker does not answer
)

// cli is the command line; each verb is a type with a Run method.
type cli struct {
	Config string `help:"Configuration file." default:"/etc/slipway/slipway.yaml" env:"SLIPWAY_CONFIG" type:"path" short:"c"`
	Socket string `help:"Socket of serve; the configuration's when empty." env:"SLIPWAY_SOCKET" type:"path"`
	Output string `help:"table or json." enum:"table,json" default:"table" short:"o"`
	Debug  bool   `help:"Log more."`

	Serve   serveCmd   `cmd:"" help:"Work: take orders, drive runs, keep appliances at their desired state."`
	Order   orderCmd   `cmd:"" help:"Hand in an order: a CloudEvent in a file, or - for standard input."`
	List    listCmd    `cmd:"" help:"List runs."`
	Show    showCmd    `cmd:"" help:"Show a machine, its runs and its journal."`
	Explain explainCmd `cmd:"" help:"Say why a machine is where it is, after looking at the world."`
	Watch   watchCmd   `cmd:"" help:"Follow machines, a pool or everything, until all runs are over or parked."`
	Stats   statsCmd   `cmd:"" help:"How long runs and their steps took, per image and pool."`
	Retry   retryCmd   `cmd:"" help:"Run the step of a parked or waiting run again, after looking at what is there."`
	Cancel  cancelCmd  `cmd:"" help:"Unwind an install by its journal."`

	Reconfigure reconfigureCmd `cmd:"" help:"Change a finished machine: firewall rules, SSH keys, hostname, console password."`
	Suspend     suspendCmd     `cmd:"" help:"Take a finished machine out of use: blocked, its console closed, shut down or left running."`
	Unsuspend   unsuspendCmd   `cmd:"" help:"Bring a suspended machine back as it was."`

	Skip    skipCmd    `cmd:"" help:"Leave out the step where a run stands, if its table allows it."`
	Force   forceCmd   `cmd:"" help:"Run the step where a run stands and pass its failed checks, never a failed effect."`
	Rewind  rewindCmd  `cmd:"" help:"Undo back to a step by the journal, and go on from there."`
	Adopt   adoptCmd   `cmd:"" help:"Take over a VM that carries the machine's tag."`
	Replay  replayCmd  `cmd:"" help:"Print how a run came to its state, from the journal."`
	Machine machineCmd `cmd:"" help:"Of a machine: its first administrator's password."`
	IP      ipCmd      `cmd:"" name:"ip" help:"Addresses: list, mark as foreign, free."`
	Pool    poolCmd    `cmd:"" help:"Pools and their room."`
	Names   namesCmd   `cmd:"" help:"Compare the DNS with the machines: what carries a mark and should not, and what is missing."`
	Import  importCmd  `cmd:"" help:"Take a foreign VM into management as it runs."`
	Foreign foreignCmd `cmd:"" help:"What is reserved as somebody else's: list, free."`

	Appliance applianceCmd `cmd:"" help:"Appliances as they are: scan for what is not slipway's."`

	Group       groupCmd       `cmd:"" help:"Appliance groups: list, resume a halted member, approve a shrink."`
	Audit       auditCmd       `cmd:"" help:"Hold the database against pools and appliances, and put right what is safe; what operators did, and whether that record is whole."`
	Plan        planCmd        `cmd:"" help:"Show what would change on the appliances against what is live, and what pools have that nobody knows; touch nothing."`
	Apply       applyCmd       `cmd:"" help:"Apply exactly what a plan showed, by its hash, or refuse."`
	Maintenance maintenanceCmd `cmd:"" help:"Pools, groups and members that somebody works on: on, off, list."`
	Guard       guardCmd       `cmd:"" help:"Let begin what the change-rate guard holds back."`
	Backlog     backlogCmd     `cmd:"" help:"Tenants that have as many runs under way as they may, and how many of their orders wait."`
	Workers     workersCmd     `cmd:"" help:"The workers, and what each has in hand."`
	Drain       drainCmd       `cmd:"" help:"Make a worker take nothing new and leave what it has in hand to others."`
	Undrain     undrainCmd     `cmd:"" help:"Make a drained worker work again."`

	Console consoleCmd `cmd:"" help:"Machines' screens: open one in a browser, revoke, serve."`
	Dead    deadCmd    `cmd:"" help:"Orders that were refused: list, show, requeue, drop."`
	Graph   graphCmd   `cmd:"" help:"Draw a process as Mermaid."`
	Schema  schemaCmd  `cmd:"" help:"Print the JSON Schema of a message."`
	Secrets secretsCmd `cmd:"" help:"Secrets in the database: under which keys they are, and exchange the key."`
	Check   checkCmd   `cmd:"" help:"Try everything that the configuration says."`
	Migrate migrateCmd `cmd:"" help:"Bring the database to this version's schema."`
	Sim     simCmd     `cmd:"" help:"Simulators of what cannot run everywhere."`
	Agent   agentCmd   `cmd:"" help:"The agent on an appliance."`
	Demo    demoCmd    `cmd:"" help:"Watch orders become machines on simulators; no root, no servers."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Help    helpCmd    `cmd:"" hidden:""`
}

// env is what every verb gets.
type env struct {
	*cli
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	log    *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main as a function: tests call it with their own streams.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	var c cli
	exited := exitOK
	parser, err := kong.New(&c, kong.Name("slipway"), kong.Description("Provision virtual machines on XenServer and XCP-ng pools."),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code; panic(exit{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(stderr, "slipway:", err)
		return exitFailure
	}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(exit); !ok {
				panic(p)
			}
			code = exited
		}
	}()
	parsed, err := parser.Parse(args)
	if err != nil {
		help := "slipway --help"
		var at *kong.ParseError
		if errors.As(err, &at) {
			help = helpOf(at.Context)
		}
		fmt.Fprintf(stderr, "slipway: %v\nnext: %s\n", err, help)
		return exitUsage
	}
	e := &env{cli: &c, ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, log: logger(stderr, c.Debug)}
	return report(stderr, parsed.Run(e), again(args, helpOf(parsed)))
}

// helpOf is the command that explains the verb as far as it was understood.
func helpOf(c *kong.Context) string {
	at := "slipway"
	for _, p := range c.Path {
		if p.Command != nil {
			at = p.Command.FullPath()
		}
	}
	return at + " --help"
}

// again tells what to type after a refusal of fields: the same with a reason when that is all that was missing, the schema of orders for an
// order, else the verb's help.
func again(args []string, help string) func(orchestrator.FieldErrors) string {
	return func(fields orchestrator.FieldErrors) string {
		verb, _ := strings.CutSuffix(help, " --help")
		switch {
		case len(fields) == 1 && fields[0].Field == "reason":
			words := []string{"slipway"}
			for _, arg := range args {
				words = append(words, quoted(arg))
			}
			return strings.Join(words, " ") + " --reason WHY"
		case slices.Contains([]string{"slipway order", "slipway reconfigure", "slipway suspend", "slipway unsuspend"}, verb):
			return "slipway schema order"
		}
		return help
	}
}

// quoted is an argument as a shell takes it.
func quoted(arg string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-_./:=@,+", r)
	}
	if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool { return !plain(r) }) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// exit unwinds out of kong's help.
type exit struct{}

func logger(w io.Writer, more bool) *slog.Logger {
	level := slog.LevelInfo
	if more {
		level = slog.LevelDebug
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000"}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// hinted is an error with the command to type next.
type hinted struct {
	error
	next string
	code int
}

func (h hinted) Unwrap() error { return h.error }

// report prints an error the way every verb does: what, each field, and the command to type next, which after a refusal of fields is for refusal
// to say.
func report(w io.Writer, err error, refusal func(orchestrator.FieldErrors) string) int {
	if err == nil {
		return exitOK
	}
	code, next := exitFailure, ""
	var h hinted
	var refused *api.Error
	var fields orchestrator.FieldErrors
	var away *api.AwayError
	switch {
	case errors.As(err, &h):
		code, next = h.code, h.next
	case errors.As(err, &refused):
		next = refused.Next
		switch refused.Code {
		case api.CodeRefused:
			code, fields = exitRefused, refused.Fields
		case api.CodeNotFound:
			code = exitNotFound
		case api.CodeConflict:
			code = exitConflict
		case api.CodeAway:
			code = exitAway
		}
	case errors.As(err, &away) && errors.Is(err, fs.ErrPermission):
		next = joinGroup(away.Socket)
	case errors.As(err, &away):
		code, next = exitAway, "slipway serve, or name its socket with --socket"
	case errors.As(err, &fields):
		code = exitRefused
	}
	for _, f := range fields {
		fmt.Fprintf(w, "slipway: %s: %s\n  fix: %s\n", clean(f.Field), clean(f.Problem), clean(f.Fix))
	}
	message := strings.Split(strings.TrimSpace(err.Error()), "\n") // a configuration's faults are a line each
	switch {
	case len(fields) > 0:
	case refused != nil:
		fmt.Fprintln(w, "slipway:", clean(refused.Message)) // serve's words are one line, whatever is in them
	default:
		fmt.Fprintln(w, "slipway:", clean(message[0]))
		for _, line := range message[1:] {
			fmt.Fprintln(w, clean(line))
		}
	}
	switch {
	case next == "" && len(fields) > 0:
		next = refusal(fields)
	case next == "":
		next = "slipway --help"
	}
	fmt.Fprintf(w, "next: %s\n", clean(next))
	return code
}

// joinGroup is how a user gets to talk to serve: its socket lets its owner and its group in.
func joinGroup(socket string) string {
	group := "GROUP-OF-SERVE"
	if info, err := os.Stat(socket); err == nil {
		if of, ok := info.Sys().(*syscall.Stat_t); ok {
			if g, err := user.LookupGroupId(strconv.FormatUint(uint64(of.Gid), 10)); err == nil {
				group = g.Name
			}
		}
	}
	return "join the group that may: sudo usermod -aG " + group + " $USER, then log in again"
}

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	_, err := fmt.Fprintln(e.stdout, "slipway", version())
	return err
}

// helpCmd is --help for those who type it as a verb.
type helpCmd struct {
	Verb []string `arg:"" optional:""`
}

func (c helpCmd) Run(of *kong.Context) error {
	at, err := kong.Trace(of.Kong, c.Verb)
	if err == nil {
		err = at.Error
	}
	if err != nil {
		return hinted{error: err, next: "slipway --help", code: exitUsage}
	}
	return at.PrintUsage(false)
}

var released string // -ldflags "-X main.released=1.2.3"

// version is set by the linker for a release, and is the commit's otherwise.
func version() string {
	if released != "" {
		return released
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}
