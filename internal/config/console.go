package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Console is the gateway that shows machines' screens to their customers; without Listen there is none.
type Console struct {
	// Listen serves browsers: HOST:PORT. VNC serves viewers of RFB; "" serves none.
	Listen string `yaml:"listen"`
	VNC    string `yaml:"vnc"`
	URL    string `yaml:"url"` // that browsers reach Listen by
	// Ports is the address on which each machine has its console port, for the pools whose console_backend is gateway; "" serves none.
	// PlainPorts leaves TLS out there, since most VNC clients know none.
	Ports      string `yaml:"ports"`
	PlainPorts bool   `yaml:"plain_ports"`
	// Cert and Key make both listeners speak TLS. Without them they are on loopback, behind a proxy, unless Insecure is said.
	Cert     string `yaml:"cert"`
	Key      Secret `yaml:"key"`
	Insecure bool   `yaml:"insecure"`
	// Proxies are believed when they say for whom they ask (X-Forwarded-For).
	Proxies    []Prefix      `yaml:"proxies"`
	TokenLife  time.Duration `yaml:"token_life"`  // default 1m
	SessionAge time.Duration `yaml:"session_age"` // default 8h
}

// IsZero reports whether there is no gateway.
func (c Console) IsZero() bool { return c.Listen == "" && c.VNC == "" && c.URL == "" && c.Ports == "" }

func (c Console) validate(add func(field, problem, fix string)) {
	if c.IsZero() {
		return
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		add("console.url", "is not a URL", "give the one that browsers reach the console by, such as https://console.example.net")
	case u.Path != "" && path.Clean(u.Path) != strings.TrimRight(u.Path, "/") && u.Path != "/" || strings.ContainsAny(u.Path, "{}"):
		add("console.url", "has an empty or odd part in its path", "use plain names between single slashes")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		add("console.url", "has more than scheme, host and path", "leave out the rest")
	case u.Scheme == "http" && !c.Insecure && !isLoopback(u.Host):
		add("console.url", "is plain http: whoever sits on the path sees the screen and every key", "use https, or say console.insecure for a laboratory")
	}
	if (c.Cert == "") != c.Key.IsZero() {
		add("console.cert", "comes with its key or not at all", "give both console.cert and console.key")
	}
	if c.Listen == "" {
		add("console.listen", "is missing", "write one such as 127.0.0.1:6080")
	}
	for _, l := range []struct{ field, value string }{{"console.listen", c.Listen}, {"console.vnc", c.VNC}} {
		if l.value == "" {
			continue
		}
		_, port, err := net.SplitHostPort(l.value)
		switch {
		case err != nil || port == "":
			add(l.field, fmt.Sprintf("%q is not HOST:PORT", clip(l.value)), "write one such as 127.0.0.1:6080")
		case c.Cert == "" && !c.Insecure && !isLoopback(l.value):
			add(l.field, "is not on loopback and has no TLS", "give console.cert and console.key, listen on 127.0.0.1 behind a proxy, or say console.insecure for a laboratory")
		}
	}
	if c.Ports != "" {
		a, err := netip.ParseAddr(c.Ports)
		switch {
		case err != nil:
			add("console.ports", fmt.Sprintf("%q is not an address", clip(c.Ports)), "write the one that customers' VNC clients connect to, without a port")
		case c.Cert == "" && !c.PlainPorts && !c.Insecure && !a.IsLoopback():
			add("console.ports", "is not on loopback and has no TLS", "give console.cert and console.key, or say console.plain_ports to go on as xvp does, in the clear")
		}
	} else if c.PlainPorts {
		add("console.plain_ports", "has no meaning without console.ports", "give console.ports, or leave it out")
	}
	if c.TokenLife < time.Second || c.TokenLife > time.Hour {
		add("console.token_life", fmt.Sprintf("%s is out of range", c.TokenLife), "use 1m, and 1s to 1h")
	}
	if c.SessionAge < time.Minute || c.SessionAge > 7*24*time.Hour {
		add("console.session_age", fmt.Sprintf("%s is out of range", c.SessionAge), "use 8h, and 1m to 168h")
	}
}

// isLoopback reports whether a host, or HOST:PORT, is this machine only.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// Gateways are the console groups that have the gateways among their members.
func (c *Config) Gateways() []string {
	var ids []string
	for _, g := range c.Groups {
		if g.gateway() != nil {
			ids = append(ids, g.ID)
		}
	}
	return ids
}

// gateway is the group's member that stands for the gateways, nil when there is none.
func (g Group) gateway() *Member {
	for i := range g.Members {
		if g.Members[i].Gateway {
			return &g.Members[i]
		}
	}
	return nil
}

// xvp is the group's first xvp host, nil when there is none.
func (g Group) xvp() *Member {
	for i := range g.Members {
		if !g.Members[i].Gateway {
			return &g.Members[i]
		}
	}
	return nil
}

// ConsoleAddress is where customers, and our own check, reach the ports that a backend has for a console group; "" when nobody said, or the
// group does not have that backend.
func (g Group) ConsoleAddress(b orchestrator.ConsoleBackend) string {
	m := g.xvp()
	if b == orchestrator.ConsoleGateway {
		m = g.gateway()
	}
	if m == nil {
		return ""
	}
	return m.Address
}

// HasConsoleBackend reports whether the group can show its machines' consoles by a backend.
func (g Group) HasConsoleBackend(b orchestrator.ConsoleBackend) bool {
	if b == orchestrator.ConsoleGateway {
		return g.gateway() != nil
	}
	return g.xvp() != nil
}

// ConsoleBackends is what the pools choose.
func (c *Config) ConsoleBackends() map[string]orchestrator.ConsoleBackend {
	chosen := map[string]orchestrator.ConsoleBackend{}
	for _, p := range c.Pools {
		chosen[p.ID] = p.consoleBackend()
	}
	return chosen
}

func (p Pool) consoleBackend() orchestrator.ConsoleBackend {
	return cmp.Or(orchestrator.ConsoleBackend(p.ConsoleBackend), orchestrator.ConsoleXVP)
}

// validateConsole holds a pool's choice against one of its console groups.
func (p Pool) validateConsole(g Group, add func(field, problem, fix string)) {
	field := "pools." + p.ID + ".console_backend"
	backend := p.consoleBackend()
	switch {
	case !backend.IsValid():
		add(field, fmt.Sprintf("%q is none", clip(string(backend))), "use xvp or gateway")
		return
	case !g.HasConsoleBackend(backend) && backend == orchestrator.ConsoleGateway:
		add(field, "is gateway, and group "+g.ID+" has no such member", "add a member with gateway: true and the address of its ports")
	case !g.HasConsoleBackend(backend):
		add(field, "is xvp, and group "+g.ID+" has no xvp host", "say console_backend: gateway, or add the host")
	}
	if _, ok := g.Accounts[p.ID]; !ok && g.xvp() != nil {
		add("groups."+g.ID+".accounts", "has no account for pool "+p.ID, "give xvp an account of its own there")
	}
}
