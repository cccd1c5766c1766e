package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"slipway/internal/api"
	"slipway/orchestrator"
)

type importCmd struct {
	Pool     string     `arg:"" help:"Pool."`
	VM       string     `arg:"" name:"vm" help:"uuid of the VM."`
	Tenant   string     `required:"" help:"Whose it becomes."`
	Name     string     `required:"" help:"What it is called there."`
	Hostname string     `help:"What its DHCP answers call it; the name when left out."`
	Image    string     `help:"What it is called in lists; nothing is installed."`
	Address  netip.Addr `help:"Its private address, when its guest tools do not report just one."`
	Public   netip.Addr `help:"Its public address, when no scan has met one rule that translates it."`
	Allow    []string   `help:"Who may come in: PROTOCOL[/PORTS][@SOURCE], such as tcp/22,8000-8080@203.0.113.0/24. May be given several times." sep:"none"`
	Closed   bool       `help:"Nobody may come in."`
	actFlags `embed:""`
}

func (c importCmd) Run(e *env) error {
	ask := api.Import{Pool: c.Pool, VM: c.VM, Tenant: c.Tenant, Name: c.Name, Hostname: c.Hostname, Image: c.Image, Private: c.Address, Public: c.Public,
		Closed: c.Closed, Reason: c.Reason, Yes: c.Yes}
	for _, text := range c.Allow {
		rule, err := ruleOf(text)
		if err != nil {
			return hinted{error: err, next: "slipway import --help", code: exitUsage}
		}
		ask.Firewall = append(ask.Firewall, rule)
	}
	var answer api.Imported
	if err := e.post("/v1/imports", ask, &answer); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(answer, nil)
	}
	for _, line := range answer.Found {
		fmt.Fprintln(e.stdout, "found:", clean(line))
	}
	for _, line := range answer.Plan {
		fmt.Fprintln(e.stdout, "will: ", clean(line))
	}
	if !answer.Done {
		_, err := fmt.Fprintln(e.stdout, "nothing was done; to do it add --yes --reason WHY")
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "done:  machine %s, run %s; slipway watch %s\n", clean(answer.Machine), clean(answer.Run), clean(answer.Machine))
	return err
}

// ruleOf reads PROTOCOL[/PORTS][@SOURCE]; whether the rule makes sense is for serve to say.
func ruleOf(text string) (orchestrator.FirewallRule, error) {
	what, source, from := strings.Cut(text, "@")
	if !from {
		source = "0.0.0.0/0"
	}
	protocol, ports, _ := strings.Cut(what, "/")
	rule := orchestrator.FirewallRule{Protocol: protocol}
	var err error
	if rule.Source, err = orchestrator.ParsePrefix(source); err != nil {
		return rule, fmt.Errorf("--allow %q: %q is no address range", text, source)
	}
	if ports == "" {
		return rule, nil
	}
	for p := range strings.SplitSeq(ports, ",") {
		var r orchestrator.PortRange
		quoted, err := json.Marshal(p)
		if err == nil {
			err = json.Unmarshal(quoted, &r)
		}
		if err != nil {
			return rule, fmt.Errorf("--allow %q: %q is no port or range of ports", text, p)
		}
		rule.Ports = append(rule.Ports, r)
	}
	return rule, nil
}
