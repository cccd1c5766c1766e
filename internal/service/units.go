package service

import (
	"os"
	"strings"
	"time"

	"slipway/workers/appliance/agent"
	"slipway/workers/console/xvp"
	"slipway/workers/dhcp/isc"
	"slipway/workers/firewall/iptables"
)

// Registry names the drivers that an agent's configuration can ask for.
func Registry() agent.Registry {
	return agent.Registry{
		isc.Driver: isc.Factory,
		"iptables": firewallUnit,
		"xvp":      consoleUnit,
	}
}

// firewallSettings is the firewall section of an agent's configuration:
//
//	firewall:
//	  driver: iptables
//	  rules: /var/lib/slipway/firewall/rules.v4
//	  state: /var/lib/slipway/firewall
//	  announce: {interface: eth0, active_when: 203.0.113.3}
type firewallSettings struct {
	Rules       string        `yaml:"rules"`
	State       string        `yaml:"state"`
	RevertAfter time.Duration `yaml:"revert_after"` // 0 is iptables.DefaultRevertAfter; below 0 goes without the timer
	// Announce answers ARP for the public addresses of pools that deliver them so; without it there are none.
	Announce *iptables.AnnounceConfig `yaml:"announce"`
}

// WatchArgs is the hidden verb under which this binary waits to put old rules back; see iptables.UnitConfig.Watcher.
var WatchArgs = []string{"agent", "watch-firewall"}

func firewallUnit(settings agent.Settings) (agent.Unit, error) {
	cfg, err := FirewallConfig(settings)
	if err != nil {
		return nil, err
	}
	if settings.Service == xvp.ServiceNone && os.Geteuid() != 0 {
		// iptables-restore --test is root's only. Without root a directory appliance's rules pass our own gate and the answer says that
		// the tool did not judge them.
		cfg.Save = "iptables-save (root only)"
	}
	return iptables.NewUnit(cfg)
}

// FirewallConfig reads the section; `slipway agent watch-firewall` and the boot unit use it as well.
func FirewallConfig(settings agent.Settings) (iptables.UnitConfig, error) {
	s := firewallSettings{Rules: "/var/lib/slipway/firewall/rules.v4", State: "/var/lib/slipway/firewall"}
	if err := settings.Decode(&s); err != nil {
		return iptables.UnitConfig{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return iptables.UnitConfig{}, err
	}
	watcher := append([]string{strings.TrimSuffix(self, " (deleted)")}, WatchArgs...)
	watcher = append(watcher, "--rules", s.Rules, "--state", s.State)
	if a := s.Announce; a != nil {
		watcher = append(watcher, "--announce-interface", a.Interface)
		if a.File != "" {
			watcher = append(watcher, "--announce-file", a.File)
		}
		if a.ActiveWhen.IsValid() {
			watcher = append(watcher, "--active-when", a.ActiveWhen.String())
		}
	}
	return iptables.UnitConfig{Rules: s.Rules, State: s.State, RevertAfter: s.RevertAfter, Watcher: watcher, Announce: s.Announce}, nil
}

// consoleSettings is the console section of an agent's configuration.
type consoleSettings struct {
	Target  string        `yaml:"target"`
	Main    string        `yaml:"main"`
	Program string        `yaml:"program"`
	PIDFile string        `yaml:"pid_file"`
	Start   []string      `yaml:"start"`
	Loaded  string        `yaml:"loaded"`
	Timeout time.Duration `yaml:"timeout"`
}

func consoleUnit(settings agent.Settings) (agent.Unit, error) {
	s := consoleSettings{Target: "/etc/xvp/slipway.conf"}
	if err := settings.Decode(&s); err != nil {
		return nil, err
	}
	return xvp.NewUnit(xvp.UnitConfig{
		Target: s.Target, Main: s.Main, Service: settings.Service, Program: s.Program, PIDFile: s.PIDFile, Start: s.Start, Loaded: s.Loaded, Timeout: s.Timeout,
	})
}
