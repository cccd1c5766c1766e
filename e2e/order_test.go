package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/testenv"
)

// order is a CloudEvent as a panel writes it.
type order map[string]any

func newOrder(id, typ string, data map[string]any) order {
	return order{"specversion": "1.0", "source": "panel.example.com", "type": typ, "id": id, "datacontenttype": "application/json", "data": data}
}

// install orders a machine that everybody reaches by SSH, and nobody by anything else.
func install(n int, key string) order {
	return newOrder(fmt.Sprintf("order-%04d", n), "slipway.order.install", map[string]any{
		"tenant": "acme", "name": fmt.Sprintf("vm-%04d", n), "image": image,
		"plan":     map[string]any{"vcpus": 1, "memory_mib": 1024, "disk_gib": 20},
		"firewall": []any{map[string]any{"protocol": "tcp", "source": "0.0.0.0/0", "ports": []any{22}}},
		"ssh_keys": []any{key},
	})
}

func (o order) json(t *testing.T) []byte {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// panel is the example in docs/examples, a process of Debian's own Python.
type panel struct {
	out  bytes.Buffer
	done chan struct{}
	cmd  *exec.Cmd
}

// panel orders and listens. It ends with the run, or when nothing was heard for as long as the site's patience lasts.
func (s *site) panel(ctx context.Context, url string, o order) *panel {
	s.t.Helper()
	python := testenv.Need(s.t, "/usr/bin/python3")
	file := filepath.Join(s.dir, fmt.Sprint(o["id"])+".json")
	if err := os.WriteFile(file, o.json(s.t), 0o600); err != nil {
		s.t.Fatal(err)
	}
	p := &panel{done: make(chan struct{}), cmd: exec.CommandContext(ctx, python, "../docs/examples/panel.py", "--timeout", s.patience, file)}
	p.cmd.Env = []string{"SLIPWAY_AMQP_URL=" + url, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its exit status is looked at
	}()
	s.t.Cleanup(func() { <-p.done }) // ctx ends it
	return p
}

// cli runs an operators' verb.
func (s *site) cli(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.program, append([]string{"--config", filepath.Join(s.dir, name+".yaml")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("slipway %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
