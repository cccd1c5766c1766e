package service_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/service"
	"slipway/workers/appliance/agent"
)

const agentKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7 slipway"

// An agent whose queue section cannot work says which key is wrong before it connects to anything.
func TestServeAgentRefuses(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := "{agent: dhcp2, url: 'amqps://agent-dhcp2@127.0.0.1:1/slipway', password: {file: " + password + "}, authorized: ['" + agentKey + "']}"
	serve := func(queue string) error {
		path := filepath.Join(dir, "agent.yaml")
		text := "state_dir: " + dir + "\nunits:\n  firewall: {driver: iptables, service: none}\n" + queue + "\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := agent.LoadConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what is right so far ends at once
		return service.ServeAgent(ctx, cfg, slog.New(slog.DiscardHandler))
	}
	if err := serve("queue: " + good); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ old, new, says string }{
		"no section":      {"queue: " + good, "", "queue: is missing"},
		"unknown key":     {"agent: dhcp2", "agent: dhcp2, user: x", "user"},
		"no name":         {"agent: dhcp2", "agent: ''", "queue.agent"},
		"wildcard":        {"agent: dhcp2", "agent: '*'", "queue.agent"},
		"in the clear":    {"amqps://agent-dhcp2@127.0.0.1:1", "amqp://agent-dhcp2@mq", "queue.url"},
		"password in url": {"agent-dhcp2@", "agent-dhcp2:hunter2@", "queue.url"},
		"no password":     {"password: {file: " + password + "}, ", "", "queue.password"},
		"no user":         {"agent-dhcp2@", "", "names no user"},
		"nobody":          {"authorized: ['" + agentKey + "']", "authorized: []", "queue.authorized"},
		"no key":          {agentKey, "hunter2", "queue.authorized[0]"},
		"ca file":         {"agent: dhcp2", "agent: dhcp2, ca_file: ca.pem", "queue.ca_file"},
		"no ca file":      {"agent: dhcp2", "agent: dhcp2, ca_file: /nonexistent/ca.pem", "ca.pem"},
	} {
		text := "queue: " + good
		if !strings.Contains(text, tc.old) {
			t.Fatalf("%s: %q", name, tc.old)
		}
		err := serve(strings.Replace(text, tc.old, tc.new, 1))
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}
