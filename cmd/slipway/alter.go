package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/uuid"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/intake/message"
)

// cliSource is the source of the orders that verbs make.
const cliSource = "slipway-cli"

// alterFlags are what every order about a finished machine takes.
type alterFlags struct {
	Yes  bool   `help:"Order it; without this the order is printed."`
	Wait bool   `help:"Follow it until it is done or the run parks."`
	ID   string `help:"Id of the order; the same id is the same order. A new one when left out." placeholder:"ID"`
}

type reconfigureCmd struct {
	Machine            string   `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	Allow              []string `help:"A rule of those that are to be, such as tcp/22,8000-8080@203.0.113.0/24 or icmp; without @ for everybody. Replaces all rules." placeholder:"RULE" sep:"none"`
	Shut               bool     `help:"No rule at all: nothing comes in."`
	SSHKey             []string `name:"ssh-key" help:"A public key of those that are to be, or a file of them, a line each. Replaces the keys that slipway has put there." placeholder:"KEY|FILE" sep:"none"`
	Hostname           string   `help:"What the guest calls itself." placeholder:"NAME"`
	NewConsolePassword bool     `help:"Give the console a new password."`
	alterFlags         `embed:""`
}

func (c reconfigureCmd) Run(e *env) error {
	o := orchestrator.Order{Type: orchestrator.OrderReconfigure, Hostname: c.Hostname, NewConsolePassword: c.NewConsolePassword}
	if c.Shut && len(c.Allow) > 0 {
		return hinted{error: errors.New("--shut and --allow contradict each other"), next: "slipway reconfigure --help", code: exitUsage}
	}
	if c.Shut {
		o.Firewall = []orchestrator.FirewallRule{}
	}
	for _, text := range c.Allow {
		rule, err := parseRule(text)
		if err != nil {
			return hinted{error: fmt.Errorf("--allow %q: %w", text, err), next: "write such as --allow tcp/22,8000-8080@203.0.113.0/24", code: exitUsage}
		}
		o.Firewall = append(o.Firewall, rule)
	}
	for _, key := range c.SSHKey {
		lines, err := readKeys(key)
		if err != nil {
			return hinted{error: fmt.Errorf("--ssh-key: %w", err), next: "give a public key, or a file of them", code: exitUsage}
		}
		o.SSHKeys = append(o.SSHKeys, lines...)
	}
	return e.alter(c.Machine, o, c.alterFlags)
}

type suspendCmd struct {
	Machine    string                   `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	Power      orchestrator.PowerPolicy `enum:"stop,keep" default:"stop" help:"stop shuts the VM down, keep leaves it running, cut off."`
	alterFlags `embed:""`
}

func (c suspendCmd) Run(e *env) error {
	return e.alter(c.Machine, orchestrator.Order{Type: orchestrator.OrderSuspend, Power: c.Power}, c.alterFlags)
}

type unsuspendCmd struct {
	Machine    string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	alterFlags `embed:""`
}

func (c unsuspendCmd) Run(e *env) error {
	return e.alter(c.Machine, orchestrator.Order{Type: orchestrator.OrderUnsuspend}, c.alterFlags)
}

// alter makes the order that a panel would send, and hands it in. Its source is the verbs' own, so that it meets no panel's numbers.
func (e *env) alter(what string, o orchestrator.Order, flags alterFlags) error {
	m, err := e.machine(what)
	if err != nil {
		return err
	}
	o.Source, o.ID, o.Tenant, o.Machine = cliSource, flags.ID, m.Tenant, m.ID
	if o.ID == "" {
		o.ID = uuid.NewString()
	}
	order, err := message.EncodeOrder(o)
	if err != nil {
		return err
	}
	if !flags.Yes {
		if err := settled(m, o.Type); err != nil {
			return err
		}
		if err := e.showOrder(order.Body); err != nil {
			return err
		}
		fmt.Fprintf(e.stderr, "machine %s/%s is %s; nothing was ordered; to do it, say it again with --yes\n", clean(m.Tenant), clean(m.Name), clean(m.State))
		return nil
	}
	var accepted api.Accepted
	if err := e.post("/v1/orders", order.Body, &accepted); err != nil {
		return err
	}
	if err := e.printAccepted(accepted); err != nil || !flags.Wait {
		return err
	}
	return watchCmd{Machine: []string{accepted.Machine}, Patience: patience}.Run(e)
}

// settled refuses what an order would be refused for as its machine stands now; serve looks again when it is ordered.
func settled(m api.Machine, order orchestrator.OrderType) error {
	problem := ""
	for _, r := range m.Runs {
		if orchestrator.Status(r.Status).Active() {
			problem = fmt.Sprintf("has a run of %s under way, %s in state %s", r.Process, r.Status, r.State)
		}
	}
	switch {
	case problem != "":
	case m.State != orchestrator.StateReady && m.State != orchestrator.StateSuspended:
		problem = "is not a finished machine: its state is " + m.State
	case m.State == orchestrator.StateSuspended && order == orchestrator.OrderReconfigure:
		problem = "is suspended"
	}
	if problem == "" {
		return nil
	}
	return hinted{error: fmt.Errorf("machine %s %s", m.ID, problem), next: "slipway show " + m.ID, code: exitConflict}
}

func (e *env) showOrder(body []byte) error {
	var shown any
	if err := json.Unmarshal(body, &shown); err != nil {
		return err
	}
	encoder := json.NewEncoder(e.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(shown)
}

// parseRule reads PROTOCOL[/PORTS][@SOURCE].
func parseRule(text string) (rule orchestrator.FirewallRule, err error) {
	what, source, somebody := strings.Cut(text, "@")
	if !somebody {
		source = "0.0.0.0/0"
	}
	if rule.Source, err = orchestrator.ParsePrefix(source); err != nil {
		return rule, fmt.Errorf("%q is no range of addresses", source)
	}
	protocol, ports, _ := strings.Cut(what, "/")
	rule.Protocol = protocol
	if ports == "" {
		return rule, nil
	}
	for word := range strings.SplitSeq(ports, ",") {
		var p orchestrator.PortRange
		if err := p.UnmarshalText([]byte(word)); err != nil {
			return rule, fmt.Errorf("%q is no port or range", word)
		}
		rule.Ports = append(rule.Ports, p)
	}
	return rule, nil
}

// readKeys takes one key as it is, and the lines of a file.
func readKeys(text string) ([]string, error) {
	const maxFile = 1 << 20
	if strings.Contains(text, " ") {
		return []string{strings.TrimSpace(text)}, nil
	}
	info, err := os.Stat(text)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%q is neither a public key nor a file", text)
	case err != nil:
		return nil, err
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes, which is no list of keys", text, info.Size())
	}
	body, err := os.ReadFile(text)
	if err != nil {
		return nil, err
	}
	var keys []string
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s has no key", text)
	}
	return keys, nil
}
