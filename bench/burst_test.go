package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance"
	"slipway/workers/appliance/apply"
)

const group = "dhcp-a"

// applying is a table whose row puts the machine into the group and waits until the group carries it, as sync_dhcp does.
func applying(desired func() orchestrator.Desired) *orchestrator.Process {
	return &orchestrator.Process{Name: "applying", Rows: []orchestrator.Row{
		// The first row has nothing that leads into it and could carry a reservation, as in every table.
		{From: state(0), Step: "begin", To: state(1), Do: func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return orchestrator.Finished("begun")
		}},
		{From: state(1), Step: "sync", To: state(2),
			Reserve: func(s *orchestrator.Step) ([]orchestrator.Change, error) {
				body, err := json.Marshal(orchestrator.DHCPHost{Machine: s.Machine.ID})
				return []orchestrator.Change{orchestrator.PutEntry{Group: group, Unit: orchestrator.DHCP, Body: body}}, err
			},
			Do: func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
				entry, err := desired().EntryState(ctx, group, s.Machine.ID)
				if err != nil {
					return orchestrator.Outcome{}, err
				}
				if !entry.IsApplied() {
					return orchestrator.WaitFor(orchestrator.WakeGroup(group), 0, "waiting for %s", group)
				}
				return orchestrator.Finished("applied")
			}},
	}}
}

// restarting is a member whose service takes as long to restart as dhcpd does through Debian's own script.
type restarting struct {
	applies atomic.Int64
	sum     string // of what is live; the controller sends one request at a time
}

const restart = 2100 * time.Millisecond

func (r *restarting) Apply(ctx context.Context, req apply.Request) (apply.Answer, error) {
	answer := apply.Answer{Code: apply.Unchanged, Generation: req.Generation, SHA256: req.SHA256, Rows: req.Rows}
	if req.SHA256 == r.sum {
		return answer, nil
	}
	timer := time.NewTimer(restart)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return apply.Answer{}, ctx.Err()
	case <-timer.C:
	}
	r.applies.Add(1)
	r.sum, answer.Code, answer.Reloaded = req.SHA256, apply.Applied, true
	return answer, nil
}

// burst orders n machines at once and returns how many restarts they cost.
func burst(tb testing.TB, b backend, n int) int64 {
	tb.Helper()
	var s *site
	s = open(tb, b, applying(func() orchestrator.Desired { return s.store }))
	err := s.store.SyncGroups(tb.Context(), []orchestrator.Group{{ID: group, Unit: orchestrator.DHCP, MinApplied: 1}}, []orchestrator.Member{{Group: group, Name: "dhcp1"}})
	if err != nil {
		tb.Fatal(err)
	}
	s.accept(tb, n)
	d := s.startDriver(tb)
	member := &restarting{}
	controller := appliance.New(appliance.Config{Store: s.store, Holder: holder, Log: slog.New(slog.DiscardHandler), Woken: d.Nudge, Groups: []appliance.Group{{
		ID: group, Unit: orchestrator.DHCP, Members: []appliance.Member{{Name: "dhcp1", Carrier: member}}, Render: renderAll,
	}}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { controller.Run(ctx) })
	defer running.Wait()
	defer cancel()
	s.awaitStatus(tb, n, orchestrator.StatusDone)
	return member.applies.Load()
}

func renderAll(texts []appliance.Text) (appliance.Rendering, map[string]string, error) {
	var content []byte
	for _, t := range texts {
		content = append(content, t.Body...)
	}
	return appliance.Rendering{Files: []apply.File{{Name: "hosts.conf", Content: string(content)}}}, nil, nil
}

func TestAHundredInstallsShareTenRestarts(t *testing.T) {
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			if got := burst(t, b, 100); got < 1 || got > 10 {
				t.Errorf("100 installs at once cost %d restarts, not 1 to 10", got)
			}
		})
	}
}

// BenchmarkBurst counts the restarts of one appliance that installs ordered at once cost.
func BenchmarkBurst(bench *testing.B) {
	for _, n := range []int{100, 1000} {
		bench.Run(fmt.Sprintf("installs=%d", n), func(bench *testing.B) {
			var restarts, bursts int64
			for bench.Loop() {
				restarts += burst(bench, backends()[0], n)
				bursts++
			}
			bench.ReportMetric(0, "ns/op")
			bench.ReportMetric(float64(restarts)/float64(bursts), "restarts/burst")
		})
	}
}
