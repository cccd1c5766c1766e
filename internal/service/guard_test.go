package service_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
)

// A panel that removes machine after machine is stopped at the bound: operators are told, a restart changes nothing, the orders wait, and all
// of them are carried out once somebody has said that they are meant. They leave the appliances at the same moment then, more of them than may
// go unexplained.
func TestRunawayIsHalted(t *testing.T) {
	s := site(t)
	var mu sync.Mutex
	var told bytes.Buffer
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		told.Write(body)
	}))
	defer hook.Close()
	s.Config.Notify.Webhook, s.Config.Listen = hook.URL, free(t)
	s.Config.Guard = config.Guard{Window: time.Hour, Uninstalls: 1}
	w, stop := work(t, s, io.Discard)
	client := api.NewClient(s.Config.Socket)
	defer client.Close()
	runs := func(process, status string) (n int) {
		var runs []api.Run
		_ = client.Get(t.Context(), "/v1/runs", &runs) // while serve comes up nothing answers
		for _, r := range runs {
			if r.Process == process && r.Status == status {
				n++
			}
		}
		return n
	}
	waiting := func() (waiting []api.Run) {
		if err := client.Get(t.Context(), "/v1/runs?status=waiting", &waiting); err != nil {
			t.Fatal(err)
		}
		return waiting
	}
	var names []string
	for n := range 9 {
		names = append(names, fmt.Sprint("web-", n))
	}
	for _, name := range names {
		o := order()
		o.ID, o.Name = name, name
		put(t, w, o)
	}
	until(t, "all are ready", func() bool { return runs("install", "done") == len(names) })
	for _, name := range names {
		put(t, w, orchestrator.Order{Source: "panel", ID: "out-" + name, Type: orchestrator.OrderUninstall, Tenant: "acme", Name: name})
	}
	halted := func() bool { return runs("uninstall", "done") == 1 && runs("uninstall", "waiting") == len(names)-1 }
	until(t, "one is removed and the others wait", halted)
	until(t, "operators are told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(told.String(), orchestrator.EventHalted) == 1 && strings.Contains(told.String(), "1 by panel for tenant acme")
	})
	if _, numbers := get(t, "http://"+s.Config.Listen+"/metrics"); !strings.Contains(numbers, `slipway_guard_halted{pool="pool-a",process="uninstall"} 1`) || strings.Contains(numbers, `slipway_maintenance{`) {
		t.Errorf("metrics lack the halt, or call it a maintenance")
	}

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	work(t, s, io.Discard)
	until(t, "serve answers", func() bool { return runs("uninstall", "waiting") == len(names)-1 })
	for _, r := range waiting() { // and are made due
		if err := client.Post(t.Context(), "/v1/retry/"+r.Machine, api.Act{Yes: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "they wait again", halted)
	if err := client.Post(t.Context(), "/v1/guard/release", api.Release{Subject: "pool-a", Yes: true, Reason: "meant"}, nil); err != nil {
		t.Fatal(err)
	}
	var groups []api.Group
	until(t, "all are removed, or an appliance halts", func() bool {
		if err := client.Get(t.Context(), "/v1/groups", &groups); err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			if m := g.Members[0]; m.Halted != "" {
				t.Fatalf("group %s: %s", g.ID, m.Halted)
			}
		}
		return runs("uninstall", "done") == len(names)
	})
}
