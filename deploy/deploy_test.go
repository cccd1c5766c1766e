// Package deploy_test judges the files that an operator copies: they load, they agree with each other, and they name only what the
// program has.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/internal/testenv"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/carrier"
	"slipway/workers/queue/amqp"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExampleConfigurationLoads(t *testing.T) {
	cfg, err := config.Load("slipway.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Pools) == 0 || len(cfg.Groups) != 3 {
		t.Errorf("the example shows %d pools and %d groups, not a pool and a group of each unit", len(cfg.Pools), len(cfg.Groups))
	}
}

func TestExampleAgentConfigurationMakesEveryUnit(t *testing.T) {
	cfg, err := agent.LoadConfig("agent.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.New(cfg, service.Registry(), nil); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"dhcp", "firewall", "console"} {
		if _, ok := cfg.Units[unit]; !ok {
			t.Errorf("the example has no section %q", unit)
		}
	}
}

// TestAgentOfTheExamples: the three files that make an agent on the broker speak of the same one.
func TestAgentOfTheExamples(t *testing.T) {
	cfg, err := config.Load("slipway.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var agents []string
	for _, g := range cfg.Groups {
		for _, m := range g.Members {
			if m.Queue != nil {
				agents = append(agents, m.Queue.Agent)
			}
		}
	}
	if len(agents) != 1 {
		t.Fatalf("the example shows %q, not one agent on the broker", agents)
	}
	for file, words := range map[string][]string{
		"agent.example.yaml":            {"agent: " + agents[0] + " ", "amqps://agent-" + agents[0] + "@", "{credential: amqp}"},
		"rabbitmq-definitions.json":     {`"agent-` + agents[0] + `"`},
		"systemd/slipway-agent.service": {"LoadCredential=amqp:/"},
	} {
		for _, word := range words {
			if !strings.Contains(read(t, file), word) {
				t.Errorf("%s has not %q", file, word)
			}
		}
	}
}

// directive is one "Key=value" line of a systemd unit.
type directive struct{ section, key, value string }

func directives(t *testing.T, path string) []directive {
	t.Helper()
	var all []directive
	section := ""
	for n, line := range strings.Split(read(t, path), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("%s:%d: %q is not a directive", path, n+1, line)
			}
			all = append(all, directive{section, key, value})
		}
	}
	return all
}

func values(all []directive, key string) []string {
	var out []string
	for _, d := range all {
		if d.key == key {
			out = append(out, d.value)
		}
	}
	return out
}

var units = []string{"systemd/slipway.service", "systemd/slipway-agent.service", "systemd/slipway-firewall-restore.service", "systemd/slipway-announce.service"}

func TestServiceGivesEveryCredentialThatTheExampleNames(t *testing.T) {
	var given []string
	for _, v := range values(directives(t, "systemd/slipway.service"), "LoadCredential") {
		name, path, ok := strings.Cut(v, ":")
		if !ok || !filepath.IsAbs(path) {
			t.Errorf("LoadCredential=%s: not NAME:PATH", v)
		}
		given = append(given, name)
	}
	var wanted []string
	example := regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllString(read(t, "slipway.example.yaml"), "") // what is only mentioned wants nothing yet
	for _, m := range regexp.MustCompile(`\{credential: ([a-z0-9-]+)\}`).FindAllStringSubmatch(example, -1) {
		wanted = append(wanted, m[1])
	}
	slices.Sort(given)
	slices.Sort(wanted)
	if wanted = slices.Compact(wanted); !slices.Equal(given, wanted) {
		t.Errorf("the unit gives %q, the example configuration names %q", given, wanted)
	}
}

// TestCommandLinesExist gives every command line of these files to the program itself: `--help` parses what stands before it.
func TestCommandLinesExist(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "slipway")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "slipway/cmd/slipway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var lines []string
	for _, unit := range units {
		lines = append(lines, values(directives(t, unit), "ExecStart")...)
	}
	lines = append(lines, sudoCommand(t))
	for _, line := range lines {
		words := strings.Fields(line)
		if words[0] != "/usr/bin/slipway" {
			t.Errorf("%q: the program is installed as /usr/bin/slipway", line)
		}
		cmd := exec.CommandContext(t.Context(), binary, append(words[1:], "--help")...)
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Usage: slipway "+words[1])) {
			t.Errorf("%q: %v\n%s", line, err, out)
		}
	}
}

// TestSystemdTakesTheUnits uses the real judge where there is one; a Debian container has none, and then the parser above is all.
func TestSystemdTakesTheUnits(t *testing.T) {
	verify, found := testenv.Find("systemd-analyze")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		all := directives(t, unit)
		for _, section := range []string{"Unit", "Service", "Install"} {
			if !slices.ContainsFunc(all, func(d directive) bool { return d.section == section }) {
				t.Errorf("%s has no section %s", unit, section)
			}
		}
		if len(values(all, "ExecStart")) != 1 {
			t.Errorf("%s: one ExecStart is needed", unit)
		}
		if !found {
			continue
		}
		// The program is not installed where tests run, and systemd looks whether it is there.
		path := filepath.Join(t.TempDir(), filepath.Base(unit))
		text := strings.ReplaceAll(read(t, unit), "/usr/bin/slipway ", self+" ")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), verify, "verify", "--man=no", "--recursive-errors=no", path)
		if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
		}
	}
}

// TestBootUnitComesBeforeTheNetwork: rules that come after the first packet are late.
func TestBootUnitComesBeforeTheNetwork(t *testing.T) {
	all := directives(t, "systemd/slipway-firewall-restore.service")
	for key, want := range map[string]string{"Before": "network-pre.target", "Wants": "network-pre.target", "DefaultDependencies": "no", "Type": "oneshot"} {
		if !slices.Contains(values(all, key), want) {
			t.Errorf("%s=%s is missing", key, want)
		}
	}
}

var sudoRule = regexp.MustCompile(`^slipway ALL=\(root\) NOPASSWD: (/\S+(?: \S+)+)$`)

// sudoCommand is the one command of the one rule.
func sudoCommand(t *testing.T) string {
	t.Helper()
	var rules []string
	for line := range strings.Lines(read(t, "sudoers.d-slipway")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, line)
		}
	}
	if len(rules) != 1 {
		t.Fatalf("%d rules, not one: %q", len(rules), rules)
	}
	m := sudoRule.FindStringSubmatch(rules[0])
	if m == nil {
		t.Fatalf("%q is not the one command for root and nothing else", rules[0])
	}
	return m[1]
}

func TestSudoersAllowsTheAgentAndNothingElse(t *testing.T) {
	command := sudoCommand(t)
	if command != "/usr/bin/"+carrier.Command {
		t.Errorf("sudoers allows %q, the agent is %q", command, carrier.Command)
	}
	if strings.ContainsAny(command, `*?[]!,\`) {
		t.Errorf("%q has a wildcard", command)
	}
	if forced := `command="sudo -n ` + command + `"`; !strings.Contains(read(t, "sudoers.d-slipway"), forced) {
		t.Errorf("the authorized_keys line has not %s", forced)
	}
	if visudo, ok := testenv.Find("visudo"); ok {
		path := filepath.Join(t.TempDir(), "sudoers")
		if err := os.WriteFile(path, []byte(read(t, "sudoers.d-slipway")), 0o440); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), visudo, "-c", "-f", path).CombinedOutput(); err != nil {
			t.Errorf("visudo: %v\n%s", err, out)
		}
	}
}

type definitions struct {
	Vhosts    []struct{ Name string }
	Exchanges []struct {
		Name, Vhost, Type             string
		Durable, Internal, AutoDelete bool `json:",omitempty"`
	}
	Permissions []struct{ User, Vhost, Configure, Write, Read string }
	Users       []struct {
		Name, Tags   string
		PasswordHash string `json:"password_hash"`
	}
}

func TestRabbitMQDefinitionsAreTheTopology(t *testing.T) {
	var d definitions
	if err := json.Unmarshal([]byte(read(t, "rabbitmq-definitions.json")), &d); err != nil {
		t.Fatal(err)
	}
	var exchanges []string
	for _, x := range d.Exchanges {
		kind := "topic"
		if x.Name == amqp.ExchangeAnswers {
			kind = "direct"
		}
		if x.Type != kind || !x.Durable || x.Internal || x.Vhost != d.Vhosts[0].Name {
			t.Errorf("exchange %s is not declared as slipway declares it: the broker would refuse one of the two (406)", x.Name)
		}
		exchanges = append(exchanges, x.Name)
	}
	if want := []string{amqp.ExchangeOrders, amqp.ExchangeEvents, amqp.ExchangeDead, amqp.ExchangeAnswers}; !slices.Equal(exchanges, want) {
		t.Errorf("exchanges %q, want %q", exchanges, want)
	}
	for _, u := range d.Users {
		if u.PasswordHash != "" || u.Tags != "" {
			t.Errorf("user %s comes with a password or a tag", u.Name)
		}
	}

	const (
		configure = iota
		write
		read
	)
	may := map[string][3]*regexp.Regexp{}
	for _, p := range d.Permissions {
		may[p.User] = [3]*regexp.Regexp{regexp.MustCompile(p.Configure), regexp.MustCompile(p.Write), regexp.MustCompile(p.Read)}
	}
	for _, c := range []struct {
		user string
		what int
		name string
		want bool
	}{
		{"slipway", configure, amqp.ExchangeOrders, true},
		{"slipway", configure, amqp.QueueDead, true},
		{"slipway", write, amqp.ExchangeEvents, true},
		{"slipway", read, amqp.QueueOrders, true},
		{"slipway", configure, "panel.events", false},
		{"panel", write, amqp.ExchangeOrders, true},
		{"panel", write, amqp.ExchangeEvents, false}, // nobody else speaks for us
		{"panel", write, amqp.ExchangeDead, false},
		{"panel", configure, amqp.ExchangeOrders, false},
		{"panel", configure, "panel.events", true},
		{"panel", write, "panel.events", true}, // to bind a queue is to write to it
		{"panel", read, "panel.events", true},
		{"panel", read, amqp.ExchangeEvents, true},
		{"panel", read, amqp.QueueOrders, false}, // other panels' orders
		{"panel", read, amqp.QueueDead, false},
		{"panel", read, "slipway.events.other", false},
		{"slipway", write, "amq.default", true}, // where an agent's queue is asked
		{"panel", write, "amq.default", false},
		{"agent-dhcp2", write, "amq.default", false},
		{"agent-dhcp2", configure, amqp.AgentQueue("dhcp2"), true},
		{"agent-dhcp2", read, amqp.AgentQueue("dhcp2"), true},
		{"agent-dhcp2", configure, amqp.AgentQueue("dhcp23"), false},
		{"agent-dhcp2", read, amqp.AgentQueue("fw1"), false},
		{"agent-dhcp2", write, amqp.ExchangeAnswers, true},
		{"agent-dhcp2", read, amqp.ExchangeAnswers, false},
		{"agent-dhcp2", write, amqp.ExchangeOrders, false},
		{"panel", write, amqp.ExchangeAnswers, false},
	} {
		if got := may[c.user][c.what].MatchString(c.name); got != c.want {
			t.Errorf("user %s, %s on %s: %v, want %v", c.user, [...]string{"configure", "write", "read"}[c.what], c.name, got, c.want)
		}
	}
}
