package service

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"slipway/orchestrator"
)

// serveHealth answers /healthz (the process lives), /readyz (database and queue answer) and /metrics.
func (s *Service) serveHealth(ctx context.Context, listener net.Listener) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{s}, s.auditor)
	if s.console != nil {
		registry.MustRegister(s.console.Collectors()...)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "version": s.options.Version})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Timeout: 10 * time.Second}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	return serveUntil(ctx, server, listener)
}

func (s *Service) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	answer, status := map[string]string{"database": "ok", "queue": "ok"}, http.StatusOK
	if err := s.Store.Ping(ctx); err != nil {
		answer["database"], status = err.Error(), http.StatusServiceUnavailable
	}
	if err := s.Queue.Healthy(); err != nil {
		answer["queue"], status = err.Error(), http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

var (
	descRuns        = prometheus.NewDesc("slipway_runs", "Runs by process and status.", []string{"process", "status"}, nil)
	descUnpublished = prometheus.NewDesc("slipway_outbox_unpublished", "Committed events that are not published yet.", nil, nil)
	descAddresses   = prometheus.NewDesc("slipway_addresses", "Addresses that are not free, by pool and state.", []string{"pool", "state"}, nil)
	descInFlight    = prometheus.NewDesc("slipway_pool_in_flight", "Runs that this worker drives now in each pool; the pool \"\" is none yet.", []string{"pool"}, nil)
	descBound       = prometheus.NewDesc("slipway_pool_in_flight_limit", "How many it drives at once in each pool.", []string{"pool"}, nil)
	descBacklog     = prometheus.NewDesc("slipway_backlog", "Orders that wait because their tenant has as many runs under way as it may: the hundred tenants with the most.", []string{"tenant"}, nil)
	descMaintained  = prometheus.NewDesc("slipway_maintenance", "1 for a pool, group or member in maintenance.", []string{"subject"}, nil)
	descHalted      = prometheus.NewDesc("slipway_guard_halted", "1 for a process whose runs the guard keeps from beginning in a pool.", []string{"pool", "process"}, nil)
	descDrained     = prometheus.NewDesc("slipway_drained", "1 while this worker is told to take nothing new.", nil, nil)
	descActs        = prometheus.NewDesc("slipway_audit_lines", "Lines of the operators' audit trail.", nil, nil)
	descHeld        = prometheus.NewDesc("slipway_runs_held", "Runs that this worker drives now.", nil, nil)
)

// collector reads the store when it is asked.
type collector struct{ *Service }

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRuns, descUnpublished, descAddresses, descInFlight, descBound, descBacklog, descMaintained, descHalted, descDrained, descActs, descHeld} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(descHeld, c.driver.Held())
	in := c.driver.InPools()
	for pool, bound := range c.Config.InFlight() {
		gauge(descInFlight, in[pool], pool)
		gauge(descBound, bound, pool)
	}
	drained := 0
	if c.duty.isOff() {
		drained = 1
	}
	gauge(descDrained, drained)
	holds, err := c.Store.Holds(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descMaintained, err)
		return
	}
	for _, h := range holds {
		if process, halts := h.Halts(); halts {
			gauge(descHalted, 1, h.Subject.Pool(), process)
			continue
		}
		gauge(descMaintained, 1, string(h.Subject))
	}
	kept, err := c.Store.Kept(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descBacklog, err)
		return
	}
	slices.SortFunc(kept, func(a, b orchestrator.TenantLoad) int { return cmp.Compare(b.Kept, a.Kept) })
	for _, t := range kept[:min(len(kept), 100)] {
		gauge(descBacklog, t.Kept, t.Tenant)
	}
	stats, err := c.Store.Stats(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descRuns, err)
		return
	}
	for process, byStatus := range stats.Runs {
		for status, n := range byStatus {
			gauge(descRuns, n, process, string(status))
		}
	}
	for pool, byState := range stats.Addresses {
		for state, n := range byState {
			gauge(descAddresses, n, pool, state)
		}
	}
	gauge(descUnpublished, stats.Unpublished)
	_, head, err := c.Store.Acts(ctx, 0, 0)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descActs, err)
		return
	}
	gauge(descActs, int(head.ID))
}
