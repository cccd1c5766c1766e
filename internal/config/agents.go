package config

import (
	"fmt"
	"net/netip"
	"net/url"
)

// validateQueueMembers checks the members that are reached over the broker: that there is one, and that nobody on the way reads along.
func (c *Config) validateQueueMembers(g Group, field string, add func(field, problem, fix string)) {
	for i, m := range g.Members {
		if m.Queue == nil {
			continue
		}
		at := fmt.Sprintf("%s.members[%d].queue", field, i)
		if !name.MatchString(m.Queue.Agent) {
			add(at+".agent", fmt.Sprintf("%q is not a name", clip(m.Queue.Agent)), nameFix+", as the agent's own configuration has it")
		}
		if m.Queue.Key.IsZero() {
			add(at+".key", "is missing", "name the private ed25519 key whose public half the agent has under authorized")
		}
		switch {
		case c.Queue.Kind != "amqp":
			add(at, "needs a broker", "set queue.kind to amqp, or reach the member by ssh:")
		case !PrivateBroker(c.Queue.URL):
			add(at, "needs a broker that is reached over TLS", "write amqps:// in queue.url")
		}
	}
}

// AgentName reports whether an agent may have the name.
func AgentName(s string) bool { return name.MatchString(s) }

// PrivateBroker is true of a broker's URL that nobody on the way can listen in on: TLS, or this machine itself.
func PrivateBroker(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	if u.Scheme == "amqps" {
		return true
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	return u.Scheme == "amqp" && (host == "localhost" || err == nil && addr.IsLoopback())
}

// HasPassword reports whether a URL carries a password, which belongs into a secret.
func HasPassword(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && hasPassword(u)
}
