package service

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/api"
	"slipway/internal/scan"
	"slipway/orchestrator"
	"slipway/workers/appliance"
)

// auditTimeout bounds the reading of one place.
const auditTimeout = 45 * time.Second

// auditSite is the world and the store as an audit reads them. The books are read twice, around everything else: what is at work in either, or
// changed in between, is nobody's finding.
type auditSite struct {
	before, after orchestrator.Books
	groups        []auditedGroup
	pools         []auditedPool
	strangers     []auditedSource
}

type auditedGroup struct {
	id      string
	plan    appliance.Plan
	members map[string]orchestrator.Member
	err     error
}

type auditedPool struct {
	id     string
	tagged tagged
	err    error
}

// auditedSource is a place looked through for strangers, and what a scan would make of them.
type auditedSource struct {
	source, command string
	scanned         orchestrator.Scanned
	err             error
}

// audit reads everything and judges it.
func (s *Service) audit(ctx context.Context) (api.Audit, auditSite, error) {
	var site auditSite
	var err error
	if site.before, err = s.Store.Books(ctx); err != nil {
		return api.Audit{}, site, err
	}
	s.readSite(ctx, &site)
	if site.after, err = s.Store.Books(ctx); err != nil {
		return api.Audit{}, site, err
	}
	a := site.judge(s.Estate)
	a.At = time.Now().UTC()
	return a, site, nil
}

// readSite asks all places at once. One that does not answer is part of what was found.
func (s *Service) readSite(ctx context.Context, site *auditSite) {
	site.groups, site.pools = make([]auditedGroup, len(s.Config.Groups)), make([]auditedPool, len(s.Estate.Pools))
	fromGroups, fromPools := make([][]auditedSource, len(s.Config.Groups)), make([]auditedSource, len(s.Estate.Pools))
	var all sync.WaitGroup
	reading := func(read func(ctx context.Context)) {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, auditTimeout)
			defer cancel()
			read(ctx)
		})
	}
	for i, g := range s.Config.Groups {
		reading(func(ctx context.Context) { site.groups[i] = s.readGroup(ctx, g.ID) })
		reading(func(ctx context.Context) { fromGroups[i] = s.readStrangers(ctx, g.ID) })
	}
	for i, p := range s.Estate.Pools {
		reading(func(ctx context.Context) {
			there, err := s.readTagged(ctx, p.ID)
			site.pools[i] = auditedPool{p.ID, there, err}
		})
		reading(func(ctx context.Context) {
			strangers, err := s.Xapi.Strangers(ctx, p.ID)
			fromPools[i] = s.judged(ctx, scan.PoolSource(p.ID), "slipway pool scan "+p.ID, scan.Pool(s.Estate, p.ID, strangers).Sightings, err)
		})
	}
	all.Wait()
	site.strangers = append(slices.Concat(fromGroups...), fromPools...)
}

func (s *Service) readGroup(ctx context.Context, id string) auditedGroup {
	g := auditedGroup{id: id, members: map[string]orchestrator.Member{}}
	if g.plan, g.err = s.controller.Plan(ctx, id); g.err != nil {
		return g
	}
	members, err := s.Store.Members(ctx, id)
	for _, m := range members {
		g.members[m.Name] = m
	}
	g.err = err
	return g
}

func (s *Service) readStrangers(ctx context.Context, group string) []auditedSource {
	surveys, err := s.controller.Survey(ctx, group)
	if err != nil {
		return []auditedSource{{source: group, err: err}}
	}
	var out []auditedSource
	for _, m := range surveys {
		out = append(out, s.judged(ctx, scan.MemberSource(group, m.Name), "slipway appliance scan "+group+"/"+m.Name,
			scan.Appliance(s.Estate, group, m.Name, m.Survey).Sightings, m.Err))
	}
	return out
}

// judged asks the store what a scan would make of sightings; nothing is written.
func (s *Service) judged(ctx context.Context, source, command string, found []orchestrator.Sighting, err error) auditedSource {
	out := auditedSource{source: source, command: command + " --yes --reason WHY", err: err}
	if err == nil {
		out.scanned, out.err = s.Store.Reserve(ctx, source, found, true, "", "")
	}
	return out
}

// judgement is a site being judged.
type judgement struct {
	site     auditSite
	machines map[string]orchestrator.Machine
	busy     map[string]bool
	byVM     map[string]string // VM → machine, of what carries our tag
	out      api.Audit
}

// judge is pure.
func (site auditSite) judge(estate *orchestrator.Estate) api.Audit {
	j := judgement{site: site, machines: map[string]orchestrator.Machine{}, busy: site.unsettled(), byVM: map[string]string{}}
	j.out.Findings, j.out.Ledger = []api.Finding{}, []api.Account{}
	for _, m := range site.after.Machines {
		j.machines[m.ID] = m
	}
	for _, p := range site.pools {
		j.pool(p)
	}
	for _, g := range site.groups {
		j.group(g)
	}
	for _, s := range site.strangers {
		j.source(s)
	}
	for _, a := range site.after.Accounts(estate) {
		j.account(a)
	}
	for i := range j.out.Findings {
		j.own(&j.out.Findings[i])
	}
	if j.out.Newer {
		for i := range j.out.Findings { // until the database knows what is its own, nothing is taken away
			if f := &j.out.Findings[i]; f.Kind != api.FindingStranger {
				f.Safe = false
			}
		}
	}
	slices.SortStableFunc(j.out.Findings, func(a, b api.Finding) int {
		kind := func(f api.Finding) int { return slices.Index(api.FindingKinds(), f.Kind) }
		return firstOf(kind(a)-kind(b), strings.Compare(a.Place, b.Place), strings.Compare(a.Owner(), b.Owner()), strings.Compare(a.Object, b.Object))
	})
	return j.out
}

func firstOf(orders ...int) int {
	for _, o := range orders {
		if o != 0 {
			return o
		}
	}
	return 0
}

// unsettled are the machines that a run is at work on, or was at any time while the site was read.
func (site auditSite) unsettled() map[string]bool {
	busy, before := map[string]bool{}, map[string]time.Time{}
	for _, books := range []orchestrator.Books{site.before, site.after} {
		for machine := range books.Active {
			busy[machine] = true
		}
	}
	for _, m := range site.before.Machines {
		before[m.ID] = m.UpdatedAt
	}
	for _, m := range site.after.Machines {
		if at, known := before[m.ID]; !known || !at.Equal(m.UpdatedAt) {
			busy[m.ID] = true
		}
	}
	return busy
}

func (j *judgement) unread(place string, err string) {
	u := api.Unread{Place: place, Problem: err}
	if !slices.Contains(j.out.Unread, u) {
		j.out.Unread = append(j.out.Unread, u)
	}
}

func (j *judgement) add(f api.Finding) {
	j.out.Findings = append(j.out.Findings, f)
	j.out.Newer = j.out.Newer || f.Kind == api.FindingNewer
}

// own fills in whose a finding is.
func (j *judgement) own(f *api.Finding) {
	m, known := j.machines[f.Machine]
	if !known {
		return
	}
	f.Name, f.Tenant = m.Name, m.Tenant
	if o, ok := j.site.after.Orders[m.ID]; ok {
		f.Order = o.Source + " " + o.ID
	}
}

func (j *judgement) pool(p auditedPool) {
	place := "pool " + p.id
	if p.err != nil {
		j.unread(place, p.err.Error())
		return
	}
	for _, vm := range p.tagged.vms {
		j.byVM[vm.uuid] = vm.machine
	}
	for _, f := range p.tagged.compare(p.id, j.machines, j.busy) {
		j.add(api.Finding{Kind: f.Kind, Place: place, Object: f.Object, Problem: f.Problem, Machine: f.Machine, Repair: f.Repair, Safe: f.Safe})
	}
}

func (j *judgement) group(g auditedGroup) {
	if g.err != nil {
		j.unread(g.id, g.err.Error())
		return
	}
	apply := "slipway apply --plan " + g.plan.Hash + " --yes --reason WHY"
	if g.plan.Problem != "" {
		j.add(api.Finding{Kind: api.FindingDrift, Place: g.id, Object: "desired state", Problem: g.plan.Problem, Repair: "slipway plan --group " + g.id})
	}
	for machine, why := range g.plan.Bad {
		if !j.busy[machine] {
			j.add(api.Finding{Kind: api.FindingDrift, Place: g.id, Object: "entry", Machine: machine, Problem: "is left out: " + why, Repair: "slipway explain " + machine})
		}
	}
	for _, m := range g.plan.Members {
		j.member(g, m, scan.MemberSource(g.id, m.Name), apply)
	}
}

func (j *judgement) member(g auditedGroup, m appliance.MemberPlan, place, apply string) {
	if m.Problem != "" {
		j.unread(place, m.Problem)
		return
	}
	safe := m.Blocked == "" && g.plan.Blocked() == ""
	if m.Blocked != "" {
		j.blocked(g, m, place)
	}
	say := func(kind, object, machine, format string, args ...any) {
		j.add(api.Finding{Kind: kind, Place: place, Object: object, Machine: machine, Problem: fmt.Sprintf(format, args...), Repair: apply, Safe: safe})
	}
	underWay := j.underWay(g)
	if m.Generation == 0 && g.members[m.Name].Applied == 0 && g.plan.Applied == 0 || m.Generation < g.plan.Generation && underWay {
		return // nothing was ever applied to it, or it is being brought up to date
	}
	if m.Fault != "" {
		say(api.FindingDrift, "service", "", "what runs is not what the files say: %s", m.Fault)
	}
	for _, note := range m.Notes {
		say(api.FindingDrift, "files", "", "%s", note)
	}
	for _, c := range m.Changes {
		if c.Machine != "" || !underWay {
			j.change(c, say)
		}
	}
	if m.Omitted > 0 {
		say(api.FindingDrift, "files", "", "%d lines more differ than are compared one by one", m.Omitted)
	}
}

// blocked is a member that waits for an operator's word.
func (j *judgement) blocked(g auditedGroup, m appliance.MemberPlan, place string) {
	f := api.Finding{Kind: api.FindingDrift, Place: place, Object: "apply", Problem: m.Blocked, Repair: fmt.Sprintf("slipway group resume %s %s --yes --reason WHY", g.id, m.Name)}
	halted := g.members[m.Name].Halted
	switch {
	case strings.HasPrefix(halted, "newer"), m.Newer:
		f.Kind = api.FindingNewer
	case halted == "":
		f.Repair = fmt.Sprintf("slipway group approve-shrink %s --yes --reason WHY", g.id)
	}
	j.add(f)
}

// underWay reports whether a run may be changing the group just now.
func (j *judgement) underWay(g auditedGroup) bool {
	for id := range j.busy {
		p := j.machines[id].Placement
		if j.site.before.Active[id] == orchestrator.StatusParked && j.site.after.Active[id] == orchestrator.StatusParked {
			continue
		}
		if p.DHCP == g.id || p.Firewall == g.id || p.Console == g.id || p.IsZero() {
			return true
		}
	}
	return false
}

// change is a machine's lines in a file of a member, or lines that are no machine's.
func (j *judgement) change(c appliance.Change, say func(kind, object, machine, format string, args ...any)) {
	_, known := j.machines[c.Machine]
	lines := fmt.Sprintf("%d lines", len(c.Lines))
	if len(c.Lines) == 1 {
		lines = "1 line"
	}
	switch {
	case c.Machine != "" && j.busy[c.Machine]:
	case c.Machine != "" && !known:
		say(api.FindingNewer, c.File, c.Machine, "has %s of a machine that the database does not know", lines)
	case c.Machine != "" && c.Kind == "removed":
		say(api.FindingLeak, c.File, c.Machine, "has %s of its machine that should not be there", lines)
	case c.Machine != "" && c.Kind == "added":
		say(api.FindingMissing, c.File, c.Machine, "lacks %s of its machine", lines)
	case c.Machine != "":
		say(api.FindingDrift, c.File, c.Machine, "differs in %s of its machine", lines)
	default:
		rest := 0
		for _, line := range c.Lines {
			machine := j.ownerOfConsole(line)
			switch _, known := j.machines[machine]; {
			case machine != "" && j.busy[machine]:
			case machine != "" && !known:
				say(api.FindingNewer, c.File, machine, "has a console of a machine that the database does not know")
			case machine != "":
				say(api.FindingLeak, c.File, machine, "has a console of its machine that should not be there")
			default:
				rest++
			}
		}
		if rest > 0 {
			say(api.FindingDrift, c.File, "", "%d lines differ that are no machine's", rest)
		}
	}
}

// ownerOfConsole is whose VM a line of an xvp.conf shows that should go: there a machine is known by its VM alone.
func (j *judgement) ownerOfConsole(line appliance.Line) string {
	if line.Op != '-' || !consoleVM.MatchString(line.Text) {
		return ""
	}
	words := strings.Fields(line.Text) // VM PORT UUID …
	return j.byVM[words[2]]
}

// source turns what is somebody else's into findings, one for each thing that has it.
func (j *judgement) source(s auditedSource) {
	if s.err != nil {
		j.unread(s.source, s.err.Error())
		return
	}
	type thing struct{ object, machine, state string }
	values := map[thing][]string{}
	var order []thing
	for _, v := range s.scanned.Verdicts {
		if v.State != orchestrator.SightingNew && v.State != orchestrator.SightingConflict || j.busy[v.Machine] {
			continue
		}
		t := thing{object: v.Object, state: v.State}
		if v.State == orchestrator.SightingConflict {
			t.machine = v.Machine
		}
		if values[t] == nil {
			order = append(order, t)
		}
		values[t] = append(values[t], v.Value)
	}
	for _, t := range order {
		what := strings.Join(values[t], ", ")
		if n := len(values[t]); n > 4 {
			what = fmt.Sprintf("%s … %s (%d)", values[t][0], values[t][n-1], n)
		}
		f := api.Finding{Kind: api.FindingStranger, Place: s.source, Object: t.object, Machine: t.machine, Repair: s.command, Safe: true,
			Problem: "has " + what + ", which might be given out"}
		if t.machine != "" {
			f.Problem, f.Repair, f.Safe = "has "+what+", which is a machine's of ours: one of them has to get another", "slipway explain "+t.machine, false
		}
		j.add(f)
	}
}

func (j *judgement) account(a orchestrator.Account) {
	j.out.Ledger = append(j.out.Ledger, api.Account{Resource: a.Resource, Place: a.Place, Role: a.Role, Total: a.Total, Free: a.Free, Promised: a.Promised, Held: a.Held,
		Quarantined: a.Quarantined, Foreign: a.Foreign, Outside: a.Outside, Balances: a.Balances()})
	object := strings.TrimSpace(a.Role + " " + a.Resource + " " + a.Place)
	for _, f := range a.Faults {
		repair := "slipway ip"
		if f.Machine != "" {
			repair = "slipway show " + f.Machine
		}
		j.add(api.Finding{Kind: api.FindingLedger, Place: "ledger", Object: object, Machine: f.Machine, Problem: f.Value + " " + f.Problem, Repair: repair})
	}
	if len(a.Faults) == 0 && !a.Balances() {
		j.add(api.Finding{Kind: api.FindingLedger, Place: "ledger", Object: object, Repair: "slipway ip",
			Problem: fmt.Sprintf("does not balance: %d free, %d promised, %d held, %d quarantined, %d foreign are not %d", a.Free, a.Promised, a.Held, a.Quarantined, a.Foreign, a.Total)})
	}
}

func (s *Service) getAudit(r *http.Request) (any, error) {
	a, _, err := s.audit(r.Context())
	return a, err
}
