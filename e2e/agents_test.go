package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// onBroker makes the agents of a site listen on a broker. It is made for all of them, and named for each.
type onBroker struct {
	t       *testing.T
	name    string
	account func(agent string) string // URL of an agent's own account, over TLS
	ca      string
	key     string // the workers', private
	keyLine string
}

func (l *onBroker) named(name string) *onBroker {
	if l == nil {
		return nil
	}
	one := *l
	one.name = name
	return &one
}

// attach gives the appliance a way to the broker and its agent's start, and returns the queue section; nothing when it is reached by SSH.
// The agent has the capabilities that the unit in deploy/ leaves it.
func (l *onBroker) attach(a *appliance, program string) string {
	if l == nil {
		return ""
	}
	l.t.Helper()
	u, err := url.Parse(carryInto(l.t, a.ns, l.account(l.name), "127.0.0.1:5671"))
	if err != nil {
		l.t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	a.write("broker.password", password, 0o600)
	a.write("agent.sh", fmt.Sprintf("#!/bin/sh\nexec %s --no-new-privs --bounding-set=%s %s agent serve --agent-config %s\n",
		testenv.Need(l.t, "setpriv"), capabilities(l.t), program, a.path("agent.yaml")), 0o755)
	return fmt.Sprintf("queue: {agent: %s, url: %q, password: {file: %s}, ca_file: %s, authorized: [%q]}\n",
		l.name, u.String(), a.path("broker.password"), l.ca, l.keyLine)
}

// capabilities are those of the unit, as setpriv takes them.
func capabilities(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../deploy/systemd/slipway-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatal("the unit bounds no capabilities")
	}
	list := "-all"
	for _, name := range strings.Fields(string(found[1])) {
		list += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	return list
}

// byBroker makes the accounts of deploy/ on a fresh virtual host: the worker's URL, and an agent's for each appliance.
func byBroker(t *testing.T) (worker string, l *onBroker) {
	t.Helper()
	text, err := os.ReadFile("../deploy/rabbitmq-definitions.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Permissions []struct{ User, Configure, Write, Read string }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	broker := testserver.SharedRabbitMQ(t)
	vhost := broker.URL(t)
	l = &onBroker{t: t, ca: broker.CAFile()}
	l.key, l.keyLine = keyPair(t)
	for _, p := range d.Permissions {
		switch p.User {
		case "slipway":
			worker = broker.Account(t, vhost, p.User, p.Configure, p.Write, p.Read)
		case "agent-dhcp2":
			l.account = func(agent string) string {
				own := func(pattern string) string { return strings.ReplaceAll(pattern, "dhcp2", agent) }
				return broker.OverTLS(t, broker.Account(t, vhost, own(p.User), own(p.Configure), own(p.Write), own(p.Read)))
			}
		}
	}
	if worker == "" || l.account == nil {
		t.Fatal("the definitions have no account for a worker or for an agent")
	}
	return worker, l
}

// The appliances' agents are on the broker, with the accounts and the capabilities that deploy/ gives them: real dhcpd, iptables and conntrack
// do what they do over SSH, an agent that is killed in an apply comes back and puts it right, and the operators' verbs need not know.
func TestAgentsOnTheBroker(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	worker, l := byBroker(t)
	s := newSite(t, siteConfig{pools: 1, rabbitmq: worker, agents: l})
	t.Cleanup(func() {
		for _, a := range []*appliance{s.dhcp, s.firewall, s.console} {
			if t.Failed() {
				t.Logf("agent at %s said:\n%s", a.address, lastLines(a.read("agent.log"), 20))
			}
		}
	})
	foreign := s.firewall.foreign()
	w := s.serve("worker")
	if out, err := s.manager.Run(t.Context(), s.program, "--config", filepath.Join(s.dir, "worker.yaml"), "check"); err != nil || strings.Count(out, "accepts an empty state") != 3 {
		t.Errorf("check: %v\n%s", err, out)
	}
	_, key := keyPair(t)
	w.order(t, install(1, key))
	s.done(w, 1, 2*time.Minute)
	s.counted(1)

	if out := s.cli("worker", "plan"); strings.Contains(out, "no answer") || !strings.Contains(out, "nothing") {
		t.Errorf("plan of what is as it should be:\n%s", out)
	}
	s.fw.MustRun("iptables", "-F", "SLIPWAY-TO") // somebody's hand
	var plan api.Plan
	if err := json.Unmarshal([]byte(s.cli("worker", "-o", "json", "plan", "--group", "firewall")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Empty {
		t.Errorf("a flushed chain is not seen: %+v", plan)
	}
	s.cli("worker", "apply", "--plan", plan.Hash, "--yes", "--reason", "somebody's hand")
	if rules := s.fw.MustRun("iptables", "-S", "SLIPWAY-TO"); strings.Count(rules, "-A SLIPWAY-TO") != 2 {
		t.Errorf("not applied:\n%s", rules)
	}

	s.dhcp.write("hold", "", 0o600)
	w.order(t, install(2, key))
	testnet.Until(t, 60*time.Second, "the agent to wait for dhcpd in the middle of an apply", func() bool { return exists(s.dhcp.path("held")) })
	s.dhcp.write("kill", "", 0o600)
	testnet.Until(t, 20*time.Second, "the agent to be killed", func() bool { return !exists(s.dhcp.path("kill")) })
	if err := os.Remove(s.dhcp.path("hold")); err != nil {
		t.Fatal(err)
	}
	s.done(w, 2, 2*time.Minute)
	s.counted(2)
	if n := strings.Count(s.dhcp.read("agent.log"), `"msg":"listening"`); n != 2 {
		t.Errorf("the agent began to listen %d times, not twice", n)
	}

	for i, m := range s.machines() {
		w.order(t, newOrder(fmt.Sprint("leave-", i), "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": m.ID}))
	}
	s.done(w, 4, 2*time.Minute)
	s.counted(0)
	if now := s.firewall.foreign(); now != foreign {
		t.Errorf("what is not ours in the firewall has changed from\n%s\nto\n%s", foreign, now)
	}
}
