package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"slipway/orchestrator"
)

// DNS is where a pool's machines are named; without a zone they are not.
type DNS struct {
	Zone    string        `yaml:"zone"`   // without the final dot
	Server  string        `yaml:"server"` // the zones' primary: host, or host:port
	Key     TSIG          `yaml:"key"`
	Reverse []ReverseZone `yaml:"reverse"`
	TTL     time.Duration `yaml:"ttl"` // default 5m
}

// TSIG is the key that updates and answers are signed with.
type TSIG struct {
	Name      string `yaml:"name"`
	Algorithm string `yaml:"algorithm"` // default hmac-sha256
	Secret    Secret `yaml:"secret"`    // base64, as tsig-keygen prints it
}

// ReverseZone is the zone that has the pointers of a prefix.
type ReverseZone struct {
	Prefix Prefix `yaml:"prefix"`
	Zone   string `yaml:"zone"`
}

// Monitoring is told of every machine; without a URL nothing is.
type Monitoring struct {
	URL    string `yaml:"url"`
	Token  Secret `yaml:"token"`
	CAFile string `yaml:"ca_file"` // default the system's
}

// Address is the server's, with a port.
func (d DNS) Address() string {
	if _, _, err := net.SplitHostPort(d.Server); err == nil {
		return d.Server
	}
	return net.JoinHostPort(d.Server, "53")
}

func (d DNS) domain() orchestrator.DNS {
	out := orchestrator.DNS{Zone: d.Zone}
	for _, z := range d.Reverse {
		out.Reverse = append(out.Reverse, orchestrator.ReverseZone{Prefix: netip.Prefix(z.Prefix), Zone: z.Zone})
	}
	return out
}

// isZero reports whether nothing is said.
func (d DNS) isZero() bool {
	return d.Zone == "" && d.Server == "" && d.Key == TSIG{} && len(d.Reverse) == 0 && d.TTL == 0
}

// validate leaves names and prefixes to the estate.
func (d DNS) validate(field string, add func(field, problem, fix string)) {
	if d.isZero() {
		return
	}
	if d.Zone == "" && len(d.Reverse) == 0 { // else the estate says it
		add(field+".zone", "is missing", "name the zone that machines are registered in, or leave dns out")
	}
	if host, _, err := net.SplitHostPort(d.Address()); err != nil || host == "" {
		add(field+".server", fmt.Sprintf("%q is not a server", clip(d.Server)), "name the zones' primary, such as ns1.example.net or 192.0.2.53:53")
	}
	if d.Key.Name == "" {
		add(field+".key.name", "is missing", "name the TSIG key that may update the zones")
	}
	if d.Key.Secret.IsZero() {
		add(field+".key.secret", "is missing", "say where the key is, in base64 as tsig-keygen prints it")
	}
	if d.TTL != 0 && (d.TTL < time.Second || d.TTL > maxTTL) {
		add(field+".ttl", fmt.Sprintf("%s is out of range", d.TTL), "use 1s to 168h")
	}
}

// maxTTL bounds for how long the world remembers a machine that is gone.
const maxTTL = 7 * 24 * time.Hour

// validate never repeats the URL: it may hold a secret.
func (m Monitoring) validate(add func(field, problem, fix string)) {
	if m.URL == "" {
		if m != (Monitoring{}) {
			add("monitoring.url", "is missing", "name the service, or leave monitoring out")
		}
		return
	}
	u, err := url.Parse(m.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		add("monitoring.url", "is not a URL", "write one such as https://monitoring.example.net/api/v1")
	case u.User != nil || u.RawQuery != "":
		add("monitoring.url", "holds a user or a query", "move the secret to monitoring.token")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		add("monitoring.url", "is not encrypted, and the token would be seen", "use https; http is for a service on this machine")
	}
}
