package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// overQueue is the good file with a firewall whose agent listens on the broker.
func overQueue(url, member string) string {
	text := strings.Replace(good, "state_dir: state", "state_dir: state\nqueue: {kind: amqp, url: '"+url+"'}", 1)
	return strings.Replace(text, "{name: fw1, local: {config: agents/fw.yaml}}", "{name: fw1, queue: "+member+"}", 1)
}

func TestQueueMember(t *testing.T) {
	path := write(t, overQueue("amqps://slipway@mq/slipway", "{agent: fw1, key: {file: agents.key}}"))
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Groups[1].Members[0]; m.Queue == nil || m.Queue.Agent != "fw1" || m.Queue.Key.File != filepath.Join(filepath.Dir(path), "agents.key") {
		t.Errorf("%+v", m)
	}
	for name, tc := range map[string]struct{ url, member, field string }{
		"no name":    {"amqps://slipway@mq/slipway", "{key: {file: k}}", ".agent"},
		"odd name":   {"amqps://slipway@mq/slipway", "{agent: 'fw#', key: {file: k}}", ".agent"},
		"no key":     {"amqps://slipway@mq/slipway", "{agent: fw1}", ".key"},
		"in clear":   {"amqp://slipway@mq/slipway", "{agent: fw1, key: {file: k}}", ""},
		"this host?": {"amqp://slipway@127.0.0.1.example.net/slipway", "{agent: fw1, key: {file: k}}", ""},
	} {
		_, err := Load(write(t, overQueue(tc.url, tc.member)))
		var fields orchestrator.FieldErrors
		if !errors.As(err, &fields) || fields[0].Field != "groups.fw-a.members[0].queue"+tc.field || fields[0].Fix == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"amqp://slipway@127.0.0.1:5672/slipway", "amqp://slipway@[::1]/slipway", "amqp://slipway@localhost/slipway"} {
		if _, err := Load(write(t, overQueue(url, "{agent: fw1, key: {file: k}}"))); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}
