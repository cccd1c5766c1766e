package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/orchestrator/install"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
	"slipway/schemas"
	"slipway/sim/ipam"
	"slipway/sim/qemu"
	"slipway/sim/winrm"
	"slipway/sim/xapi"
	"slipway/sim/xapi/replay"
	"slipway/sim/xvp"
	"slipway/workers/appliance/agent"
	"slipway/workers/firewall/iptables"
)

type graphCmd struct {
	Process string `arg:"" enum:"install,uninstall,reconfigure,suspend,unsuspend,import" help:"install, uninstall, reconfigure, suspend, unsuspend or import."`
}

func (c graphCmd) Run(e *env) error {
	processes := map[string]*orchestrator.Process{
		install.Name:     install.New(install.Ports{}),
		uninstall.Name:   uninstall.New(uninstall.Ports{}),
		reconfigure.Name: reconfigure.New(reconfigure.Ports{}),
		suspend.Name:     suspend.New(suspend.Ports{}),
		unsuspend.Name:   unsuspend.New(unsuspend.Ports{}),
		importing.Name:   importing.New(importing.Ports{}),
	}
	_, err := fmt.Fprint(e.stdout, processes[c.Process].Mermaid())
	return err
}

type schemaCmd struct {
	Name string `arg:"" optional:"" help:"Which; without it their names are listed."`
}

func (c schemaCmd) Run(e *env) error {
	if c.Name == "" {
		_, err := fmt.Fprintln(e.stdout, strings.Join(schemas.Names(), "\n"))
		return err
	}
	text, ok := schemas.Get(c.Name)
	if !ok {
		return hinted{error: fmt.Errorf("there is no schema %q", c.Name), next: "slipway schema", code: exitNotFound}
	}
	_, err := e.stdout.Write(text)
	return err
}

type checkCmd struct{}

func (checkCmd) Run(e *env) error {
	cfg, err := e.load()
	if err != nil {
		return err
	}
	type result struct {
		What  string `json:"what"`
		Note  string `json:"note,omitempty"`
		Error string `json:"error,omitempty"`

		Skipped bool   `json:"skipped,omitempty"`
		Warning string `json:"warning,omitempty"`
	}
	failed := 0
	for finding := range service.Check(e.ctx, cfg, e.log) {
		mark, problem := "ok  ", finding.Warning
		switch {
		case finding.Err != nil:
			mark, problem = "FAIL", finding.Err.Error()
			failed++
		case finding.Skipped:
			mark = "skip"
		case finding.Warning != "":
			mark = "warn"
		}
		if e.Output == "json" {
			r := result{What: finding.What, Note: finding.Note, Skipped: finding.Skipped, Warning: finding.Warning}
			if finding.Err != nil {
				r.Error = finding.Err.Error()
			}
			if err := e.line(r); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(e.stdout, "%s %s", mark, finding.What)
		switch {
		case problem != "":
			for i, line := range strings.Split(problem, "\n") { // one for each field
				if i > 0 {
					fmt.Fprintf(e.stdout, "\n     %s", finding.What)
				}
				fmt.Fprintf(e.stdout, ": %s", clean(line))
			}
		case finding.Note != "":
			fmt.Fprintf(e.stdout, " (%s)", clean(finding.Note))
		}
		fmt.Fprintln(e.stdout)
	}
	if failed > 0 {
		return hinted{error: fmt.Errorf("%s failed", count(failed, "check")), next: "put them right, then: slipway check --config " + e.Config, code: exitFailure}
	}
	return nil
}

type simCmd struct {
	Xapi   simXapiCmd   `cmd:"" help:"A XenServer pool: JSON-RPC, XML-RPC, tasks, events, consoles."`
	WinRM  simWinRMCmd  `cmd:"" name:"winrm" help:"A Windows guest's WinRM: what slipway's own jobs ask of it."`
	IPAM   simIPAMCmd   `cmd:"" name:"ipam" help:"A naming and address service, as docs/ipam.md describes it; it forgets all at its end."`
	Replay simReplayCmd `cmd:"" help:"Play recordings of a real toolstack against the XenAPI simulator and print how far they agree."`
	XVP    simXVPCmd    `cmd:"" name:"xvp" help:"A stand-in for xvp; takes xvp's own options." passthrough:""`
}

type simXapiCmd struct {
	Listen   string `help:"HOST:PORT." required:""`
	User     string `help:"Account." default:"root"`
	Password string `help:"Its password; better in the environment." required:"" env:"SLIPWAY_SIM_PASSWORD"`
	TLS      bool   `help:"Serve https; the certificate's pin is printed." name:"tls"`
	Hosts    int    `help:"Hosts in the pool." default:"1"`
	Seed     uint64 `help:"Seed of everything that is chance." default:"1"`
	Faults   string `help:"JSON file with faults to inject." type:"path"`
	Latency  string `help:"real waits like a real toolstack." enum:"real,none" default:"none"`
	State    string `help:"File that keeps the pool when the simulator is killed; without it nothing is kept." type:"path"`

	Guests string            `help:"qemu boots every VM that is started; none keeps books only." enum:"qemu,none" default:"none"`
	Image  map[string]string `help:"With qemu: a template for each NAME=FOLDER, a folder as scripts/guest-image.sh makes it."`
	Accel  string            `help:"With qemu: tcg emulates; kvm; auto takes kvm where a guest is seen to boot with it." enum:"tcg,kvm,auto" default:"tcg"`
}

func (c simXapiCmd) Run(e *env) (err error) {
	opts := xapi.Options{Listen: c.Listen, User: c.User, Password: orchestrator.NewSecret(c.Password), TLS: c.TLS,
		Hosts: c.Hosts, Seed: c.Seed, Faults: c.Faults, Latency: c.Latency, State: c.State, Logger: e.log}
	if c.Guests == "qemu" {
		if len(c.Image) == 0 {
			return hinted{error: errors.New("--guests qemu: there is no image to boot"), next: "slipway sim xapi --guests qemu --image lab=$(scripts/guest-image.sh lab) ...", code: exitUsage}
		}
		dir, remove, err := qemu.NewDir(os.TempDir(), e.log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
		guests, err := qemu.New(e.ctx, qemu.Config{Dir: dir, Images: c.Image, Accel: c.Accel, Log: e.log})
		if err != nil {
			return err
		}
		opts.Guests = guests
		for _, name := range slices.Sorted(maps.Keys(c.Image)) {
			opts.Templates = append(opts.Templates, xapi.Template{Name: name, Image: name, DiskGiB: 1})
		}
	}
	return xapi.Main(e.ctx, opts, e.stdout)
}

type simWinRMCmd struct {
	Listen           string        `help:"HOST:PORT." required:""`
	User             string        `help:"The installer's account." default:"slipway"`
	Password         string        `help:"Its password; better in the environment." required:"" env:"SLIPWAY_SIM_PASSWORD"`
	Name             string        `help:"Computer name." default:"WIN-TEMPLATE"`
	TLS              bool          `help:"Serve https; the certificate's pin is printed." name:"tls"`
	AllowBasic       bool          `help:"Take Basic beside NTLM."`
	AllowUnencrypted bool          `help:"Take messages in the clear."`
	Boot             time.Duration `help:"How long each phase of a first boot lasts; 0 is ready at once."`
}

func (c simWinRMCmd) Run(e *env) error {
	return winrm.Main(e.ctx, winrm.Options{Listen: c.Listen, User: c.User, Password: orchestrator.NewSecret(c.Password), Name: c.Name, TLS: c.TLS,
		AllowBasic: c.AllowBasic, AllowUnencrypted: c.AllowUnencrypted, Boot: c.Boot, Logger: e.log}, e.stdout)
}

type simIPAMCmd struct {
	Listen  string         `help:"HOST:PORT, on loopback." default:"127.0.0.1:8087"`
	Token   string         `help:"What clients must show; better in the environment." required:"" env:"SLIPWAY_SIM_TOKEN"`
	Pool    []string       `help:"Pools that it gives addresses of." required:""`
	Private []config.Range `help:"Ranges FIRST-LAST of private addresses." required:""`
	Public  []config.Range `help:"Ranges FIRST-LAST of public addresses."`
}

func (c simIPAMCmd) Run(e *env) error {
	var p ipam.Pool
	for _, r := range c.Private {
		p.Private = append(p.Private, orchestrator.AddressRange(r))
	}
	for _, r := range c.Public {
		p.Public = append(p.Public, orchestrator.AddressRange(r))
	}
	pools := map[string]ipam.Pool{}
	for _, id := range c.Pool {
		pools[id] = p
	}
	return ipam.Main(e.ctx, c.Listen, ipam.New(orchestrator.NewSecret(c.Token), 0, pools), e.stdout)
}

type simReplayCmd struct {
	Dir string `arg:"" type:"existingdir" help:"Directory of recordings: JSON lists of exchanges."`
}

func (c simReplayCmd) Run(e *env) error {
	_, err := replay.Run(e.ctx, c.Dir, e.stdout)
	return err
}

type simXVPCmd struct {
	Args []string `arg:"" optional:""`
}

func (c simXVPCmd) Run(e *env) error {
	if code := xvp.Main(c.Args, e.stdout, e.stderr); code != 0 { // 2 is a wrong argument there too
		return hinted{error: fmt.Errorf("the xvp stand-in ended with %d", code), next: "slipway sim xvp --help", code: code}
	}
	return nil
}

type agentCmd struct {
	Apply         agentApplyCmd    `cmd:"" help:"Apply one desired state from standard input; the answer goes to standard output."`
	Serve         agentServeCmd    `cmd:"" help:"Listen on the broker and apply what workers ask, until SIGTERM."`
	BootFirewall  agentBootCmd     `cmd:"" help:"Put the firewall's rules back when the machine starts."`
	Announce      agentAnnounceCmd `cmd:"" help:"Answer ARP for public addresses while this firewall is the active one; a service."`
	WatchFirewall agentWatchCmd    `cmd:"" hidden:"" help:"Put old rules back unless a change is proven in time."`
}

type agentFile struct {
	AgentConfig string `help:"The agent's own configuration." default:"/etc/slipway/agent.yaml" env:"SLIPWAY_AGENT_CONFIG" type:"path" name:"agent-config"`
}

type agentApplyCmd struct {
	agentFile `embed:""`
}

func (c agentApplyCmd) Run(e *env) error {
	cfg, err := agent.LoadConfig(c.AgentConfig)
	if err != nil {
		return hinted{error: err, next: "$EDITOR " + c.AgentConfig, code: exitRefused}
	}
	return agent.Apply(e.ctx, cfg, service.Registry(), e.log, e.stdin, e.stdout)
}

type agentServeCmd struct {
	agentFile `embed:""`
}

func (c agentServeCmd) Run(e *env) error {
	cfg, err := agent.LoadConfig(c.AgentConfig)
	if err == nil {
		err = service.ServeAgent(e.ctx, cfg, e.log)
	}
	if err != nil {
		return hinted{error: err, next: "$EDITOR " + c.AgentConfig, code: exitRefused}
	}
	return nil
}

type agentBootCmd struct {
	agentFile `embed:""`
}

func (c agentBootCmd) Run(e *env) error {
	unit, err := c.firewall(e)
	if err != nil {
		return err
	}
	return unit.Boot(e.ctx)
}

type agentAnnounceCmd struct {
	agentFile `embed:""`
}

func (c agentAnnounceCmd) Run(e *env) error {
	unit, err := c.firewall(e)
	if err != nil {
		return err
	}
	return unit.Follow(e.ctx)
}

// firewall is the unit of the firewall's section.
func (c agentFile) firewall(e *env) (*iptables.Unit, error) {
	cfg, err := agent.LoadConfig(c.AgentConfig)
	if err != nil {
		return nil, hinted{error: err, next: "$EDITOR " + c.AgentConfig, code: exitRefused}
	}
	settings, ok := cfg.Units[string(orchestrator.Firewall)]
	if !ok {
		return nil, hinted{error: fmt.Errorf("%s has no firewall section", c.AgentConfig), next: "$EDITOR " + c.AgentConfig, code: exitRefused}
	}
	unitConfig, err := service.FirewallConfig(settings)
	if err != nil {
		return nil, err
	}
	unitConfig.Log = e.log
	return iptables.NewUnit(unitConfig)
}

// agentWatchCmd is started by the firewall unit with descriptor 3 as the pipe on which it says that it waits.
type agentWatchCmd struct {
	Rules string `required:""`
	State string `required:""`

	AnnounceInterface, AnnounceFile, ActiveWhen string
}

func (c agentWatchCmd) Run(e *env) error {
	cfg := iptables.UnitConfig{Rules: c.Rules, State: c.State, RevertAfter: -1, Log: slog.New(slog.DiscardHandler)}
	if c.AnnounceInterface != "" {
		cfg.Announce = &iptables.AnnounceConfig{Interface: c.AnnounceInterface, File: c.AnnounceFile}
		if err := cfg.Announce.ActiveWhen.UnmarshalText([]byte(c.ActiveWhen)); err != nil {
			return err
		}
	}
	unit, err := iptables.NewUnit(cfg)
	if err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if ready == nil {
		return fmt.Errorf("this verb is started by the agent")
	}
	return unit.Watch(e.ctx, ready)
}
