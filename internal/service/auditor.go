package service

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// auditor audits now and then, and tells what has changed since: in the log, to whoever is notified, and as metrics. Of several workers the
// one that holds the lease does it.
type auditor struct {
	service *Service

	mu   sync.Mutex
	last *api.Audit // nil until this worker has made one, and after another has taken over
}

const (
	auditLease = "audit"
	// eventAudit is what those are told who are notified: findings that are new, and those that are gone.
	eventAudit = "slipway.audit.changed"
)

// run audits every so often until ctx ends. The lease lasts for one audit and two pauses: a worker that dies is followed soon after.
func (a *auditor) run(ctx context.Context, every time.Duration) {
	if every <= 0 {
		return
	}
	defer a.leave(ctx)
	timer := time.NewTimer(min(every, firstAudit))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		a.once(ctx, every)
		timer.Reset(every)
	}
}

// firstAudit is how long after its start a worker audits for the first time: pools and appliances have been reached by then.
const firstAudit = time.Minute

func (a *auditor) once(ctx context.Context, every time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := a.service
	_, ours, err := s.Store.AcquireLease(ctx, auditLease, s.holder, 2*every+3*time.Minute)
	if err != nil || !ours {
		if !ours && err == nil {
			a.keep(nil)
		}
		return
	}
	now, _, err := s.audit(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("audit", "error", err)
		}
		return
	}
	a.tell(ctx, a.keep(&now), now)
}

// keep remembers the newest audit and returns the one before.
func (a *auditor) keep(now *api.Audit) (before *api.Audit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, a.last = a.last, now
	return before
}

func (a *auditor) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := a.service.Store.ReleaseLease(ctx, auditLease, a.service.holder); err != nil {
		a.service.log.Debug("audit's lease not given back, it runs out by itself", "error", err)
	}
}

// maxTold bounds the findings that one audit tells of one by one.
const maxTold = 100

// auditChange is the data of an eventAudit.
type auditChange struct {
	New    []api.Finding  `json:"new"`
	Gone   []api.Finding  `json:"gone"`
	Unread []api.Unread   `json:"unread"` // newly
	Counts map[string]int `json:"counts"` // of now, by kind
}

// tell says what is new and what is gone, each once.
func (a *auditor) tell(ctx context.Context, before *api.Audit, now api.Audit) {
	if before == nil {
		before = &api.Audit{}
	}
	change := auditChange{Counts: counts(now)}
	change.New, change.Gone = changed(before.Findings, now.Findings), changed(now.Findings, before.Findings)
	if len(now.Unread) > 0 { // what cannot be seen is not known to be gone
		change.Gone = withoutUnread(change.Gone, now.Unread)
	}
	for _, u := range now.Unread {
		known := false
		for _, b := range before.Unread {
			known = known || b.Place == u.Place
		}
		if !known {
			change.Unread = append(change.Unread, u)
		}
	}
	log := a.service.log
	for i, f := range change.New {
		if i == maxTold {
			log.WarnContext(ctx, "more findings than are logged one by one", "findings", len(change.New))
			break
		}
		log.WarnContext(ctx, "audit finding", "kind", f.Kind, "owner", f.Owner(), "place", f.Place, "object", f.Object, "problem", f.Problem, "repair", f.Repair)
	}
	for _, u := range change.Unread {
		log.WarnContext(ctx, "audit could not read", "place", u.Place, "problem", u.Problem)
	}
	if len(change.Gone) > 0 {
		log.InfoContext(ctx, "audit findings gone", "findings", len(change.Gone))
	}
	if len(change.New)+len(change.Gone)+len(change.Unread) == 0 {
		return
	}
	change.New, change.Gone = change.New[:min(len(change.New), maxTold)], change.Gone[:min(len(change.Gone), maxTold)]
	data, err := json.Marshal(change)
	if err != nil {
		log.ErrorContext(ctx, "audit", "error", err)
		return
	}
	a.service.notifier.tell(orchestrator.Event{Type: eventAudit, Time: now.At, Data: data})
}

// changed are the findings of now that are not among before. The command is left out of the comparison: a plan's hash changes by itself.
func changed(before, now []api.Finding) (fresh []api.Finding) {
	key := func(f api.Finding) api.Finding { f.Repair, f.Safe = "", false; return f }
	known := map[api.Finding]bool{}
	for _, f := range before {
		known[key(f)] = true
	}
	for _, f := range now {
		if !known[key(f)] {
			fresh = append(fresh, f)
		}
	}
	return fresh
}

func withoutUnread(gone []api.Finding, unread []api.Unread) (kept []api.Finding) {
	for _, f := range gone {
		hidden := false
		for _, u := range unread {
			hidden = hidden || u.Place == f.Place
		}
		if !hidden {
			kept = append(kept, f)
		}
	}
	return kept
}

func counts(a api.Audit) map[string]int {
	n := map[string]int{}
	for _, kind := range api.FindingKinds() {
		n[kind] = 0
	}
	for _, f := range a.Findings {
		n[f.Kind]++
	}
	return n
}

var (
	descFindings = prometheus.NewDesc("slipway_audit_findings", "Findings of the last audit, by kind; absent in workers that do not audit.", []string{"kind"}, nil)
	descUnread   = prometheus.NewDesc("slipway_audit_unread", "Places that the last audit could not read.", nil, nil)
	descAudited  = prometheus.NewDesc("slipway_audit_last_seconds", "When the last audit was made, in seconds since 1970.", nil, nil)
)

// Describe implements prometheus.Collector.
func (a *auditor) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descFindings, descUnread, descAudited} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (a *auditor) Collect(ch chan<- prometheus.Metric) {
	a.mu.Lock()
	last := a.last
	a.mu.Unlock()
	if last == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for kind, n := range counts(*last) {
		gauge(descFindings, float64(n), kind)
	}
	gauge(descUnread, float64(len(last.Unread)))
	gauge(descAudited, float64(last.At.Unix()))
}
