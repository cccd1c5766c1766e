package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/workers/intake/message"
)

// requestTimeout bounds one request: what it asks of the store, the broker and the pools ends with it.
const requestTimeout = 3 * time.Minute

// maxBody bounds what an operator's verb may send: an order is at most 1 MiB.
const maxBody = 4 << 20

type actorKey struct{}

// serveAPI answers the operators' verbs until ctx ends.
func (s *Service) serveAPI(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: requestTimeout + 30*time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, actorKey{}, peer(c))
		},
	}
	return serveUntil(ctx, server, listener)
}

// serveUntil serves until ctx ends, and gives requests under way a moment.
func serveUntil(ctx context.Context, server *http.Server, listener net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		_ = server.Close()
	}
	<-done
	return nil
}

// peer is who is at the other end, by the kernel's word: "uid:name".
func peer(c net.Conn) string {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return "unknown"
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return "unknown"
	}
	name := "unknown"
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err != nil {
			return
		}
		uid := strconv.FormatUint(uint64(cred.Uid), 10)
		name = uid
		if u, err := user.LookupId(uid); err == nil {
			name = uid + ":" + u.Username
		}
	})
	return name
}

func actor(ctx context.Context) string {
	name, _ := ctx.Value(actorKey{}).(string)
	return name
}

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
			defer cancel()
			r = r.WithContext(ctx)
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			answer, err := do(r)
			if err != nil {
				s.log.Debug("refused", "method", r.Method, "path", r.URL.Path, "error", err)
				writeJSON(w, statusOf(err), refusal(err))
				return
			}
			writeJSON(w, http.StatusOK, answer)
		})
	}
	handle("POST /v1/orders", s.postOrder)
	handle("GET /v1/runs", s.getRuns)
	handle("POST /v1/watch", s.postWatch)
	handle("GET /v1/stats", s.getStats)
	handle("GET /v1/machines/{what...}", s.getMachine)
	handle("GET /v1/explain/{what...}", s.getExplanation)
	for _, verb := range verbs {
		handle("POST /v1/"+verb+"/{what...}", s.act(verb))
	}
	handle("GET /v1/replay/{what...}", s.getReplay)
	handle("POST /v1/password/{what...}", s.postPassword)
	handle("POST /v1/console/{what...}", s.postConsole)
	handle("DELETE /v1/console/{what...}", s.deleteConsole)
	handle("POST /v1/console-password/{what...}", s.postConsolePassword)
	handle("GET /v1/consoles", s.getConsoles)
	handle("POST /v1/consoles/{pool}/move", s.postConsoleMove)
	handle("GET /v1/consoles/{pool}/proof", s.getConsoleProof)
	handle("GET /v1/pools", s.getPools)
	handle("POST /v1/pools/{pool}/scan", s.postPoolScan)
	handle("POST /v1/appliances/{name...}", s.postApplianceScan)
	handle("GET /v1/names", s.getNames)
	handle("POST /v1/imports", s.postImport)
	handle("GET /v1/foreign", s.getForeign)
	handle("DELETE /v1/foreign", s.deleteForeign)
	handle("GET /v1/addresses", s.getAddresses)
	handle("POST /v1/addresses", s.postAddress)
	handle("DELETE /v1/addresses", s.deleteAddress)
	handle("GET /v1/groups", s.getGroups)
	handle("GET /v1/maintenance", s.getMaintenance)
	handle("POST /v1/maintenance", s.postMaintenance)
	handle("POST /v1/guard/release", s.postRelease)
	handle("GET /v1/backlog", s.getBacklog)
	handle("GET /v1/workers", s.getWorkers)
	handle("POST /v1/workers/drain", s.postDrain)
	handle("GET /v1/audit", s.getAudit)
	handle("POST /v1/audit/repair", s.postRepair)
	handle("GET /v1/plan", s.getPlan)
	handle("POST /v1/plan/apply", s.postApplyPlan)
	handle("POST /v1/groups/{group}/members/{member}/resume", s.postResume)
	handle("POST /v1/groups/{group}/approve-shrink", s.postApproveShrink)
	handle("GET /v1/audit/log", s.getTrail)
	handle("GET /v1/secrets", s.getSecrets)
	handle("POST /v1/secrets/rotate", s.postRotate)
	handle("GET /v1/dead", s.getDead)
	handle("POST /v1/dead/{id}/requeue", s.postRequeue)
	handle("DELETE /v1/dead/{id}", s.deleteDead)
	handle("/", func(r *http.Request) (any, error) {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no %s %q", r.Method, r.URL.Path)}
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller has gone if this fails
}

func refusal(err error) *api.Error {
	var already *api.Error
	var fields orchestrator.FieldErrors
	e := &api.Error{Code: api.CodeInternal, Message: api.Words(err.Error())}
	switch {
	case errors.As(err, &already):
		return already
	case errors.As(err, &fields):
		e.Code, e.Fields = api.CodeRefused, fields
	case errors.Is(err, orchestrator.ErrNotFound):
		e.Code, e.Next = api.CodeNotFound, "slipway list"
	case errors.Is(err, orchestrator.ErrStoreAway):
		e.Code, e.Next = api.CodeAway, "slipway check"
	case orchestrator.KindOf(err) == orchestrator.Permanent, orchestrator.KindOf(err) == orchestrator.Conflict:
		e.Code = api.CodeConflict
	}
	return e
}

func statusOf(err error) int {
	switch refusal(err).Code {
	case api.CodeRefused:
		return http.StatusUnprocessableEntity
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeConflict:
		return http.StatusConflict
	case api.CodeAway:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

func (s *Service) postOrder(r *http.Request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, orchestrator.FieldErrors{{Field: "order", Problem: "is larger than an order may be", Fix: "send at most 1 MiB"}}
	}
	accepted, err := s.Intake.Take(r.Context(), body, actor(r.Context()))
	if err != nil {
		return nil, s.notNow(r.Context(), body, err)
	}
	s.recordOrder(r.Context(), body, accepted)
	if len(accepted.Differs) > 0 {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("another order under this id was taken before; these fields differ: %v", accepted.Differs),
			Next: "slipway show " + accepted.Machine}
	}
	return api.Accepted{Machine: accepted.Machine, Run: accepted.Run, Repeated: accepted.Repeated, Differs: accepted.Differs}, nil
}

// notNow tells an order that its machine does not take as it stands from one that is wrong in itself.
func (s *Service) notNow(ctx context.Context, body []byte, refused error) error {
	var fields orchestrator.FieldErrors
	if !errors.As(refused, &fields) || len(fields) != 1 || fields[0].Field != "machine" {
		return refused
	}
	order, err := message.ParseOrder(body)
	if err != nil || !order.Type.Alters() {
		return refused
	}
	m, err := s.Store.FindMachine(ctx, order.Machine)
	if err != nil || m.Tenant != order.Tenant {
		return refused
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("machine %s %s; %s", m.ID, fields[0].Problem, fields[0].Fix), Next: "slipway show " + m.ID}
}

var statuses = []orchestrator.Status{orchestrator.StatusReady, orchestrator.StatusRunning, orchestrator.StatusWaiting, orchestrator.StatusParked,
	orchestrator.StatusCanceling, orchestrator.StatusDone, orchestrator.StatusCanceled}

func (s *Service) getRuns(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := orchestrator.RunFilter{Process: q.Get("process"), Pool: q.Get("pool"), Tenant: q.Get("tenant")}
	for _, status := range q["status"] {
		if !slices.Contains(statuses, orchestrator.Status(status)) {
			return nil, orchestrator.FieldErrors{{Field: "status", Problem: fmt.Sprintf("%q is none", status), Fix: fmt.Sprintf("use some of %v", statuses)}}
		}
		f.Status = append(f.Status, orchestrator.Status(status))
	}
	if text := q.Get("limit"); text != "" {
		var err error
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > api.MaxRuns+1 {
			return nil, orchestrator.FieldErrors{{Field: "limit", Problem: fmt.Sprintf("%q is out of range", text), Fix: fmt.Sprintf("say 1 to %d", api.MaxRuns)}}
		}
	}
	views, err := s.Store.Runs(r.Context(), f)
	if err != nil {
		return nil, err
	}
	if len(views) == 0 {
		if err := s.unheardOf(f.Pool, f.Process); err != nil {
			return nil, err
		}
	}
	runs := make([]api.Run, len(views))
	for i, v := range views {
		runs[i] = runOf(v)
	}
	return runs, nil
}

// unheardOf refuses a pool or process that nobody knows. It is asked where nothing was found: runs of a pool that has left the configuration
// still have their history.
func (s *Service) unheardOf(pool, process string) error {
	var fields orchestrator.FieldErrors
	if _, ok := s.Estate.PoolByID(pool); pool != "" && !ok {
		var ids []string
		for _, p := range s.Estate.Pools {
			ids = append(ids, p.ID)
		}
		fields = append(fields, orchestrator.FieldError{Field: "pool", Problem: fmt.Sprintf("%q is unknown", pool), Fix: "use one of " + strings.Join(ids, ", ")})
	}
	if _, ok := s.Processes[process]; process != "" && !ok {
		fields = append(fields, orchestrator.FieldError{Field: "process", Problem: fmt.Sprintf("%q is unknown", process),
			Fix: "use one of " + strings.Join(slices.Sorted(maps.Keys(s.Processes)), ", ")})
	}
	if len(fields) > 0 {
		return fields
	}
	return nil
}

func runOf(v orchestrator.RunView) api.Run {
	return api.Run{
		Machine: v.Machine, Run: v.ID, Tenant: v.Tenant, Name: v.Name, Process: v.Process, State: string(v.State), Status: string(v.Status),
		Step: v.Step, Attempt: v.Attempt, Reason: v.Reason, Kind: string(v.Kind), Pool: v.Pool, Private: addr(v.Private), Public: addr(v.Public),
		Created: v.CreatedAt, Updated: v.UpdatedAt, Undoing: v.Undoing, WakeAt: v.WakeAt,
	}
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// find resolves what the operator typed.
func (s *Service) find(r *http.Request) (orchestrator.Machine, error) {
	what, err := url.PathUnescape(r.PathValue("what"))
	if err != nil {
		return orchestrator.Machine{}, orchestrator.FieldErrors{{Field: "machine", Problem: "cannot be read", Fix: "give an id, a name or tenant/name"}}
	}
	return s.named(r.Context(), what)
}

// named sends who names several machines to the list of them.
func (s *Service) named(ctx context.Context, what string) (orchestrator.Machine, error) {
	m, err := s.Store.FindMachine(ctx, what)
	var several orchestrator.FieldErrors
	if errors.As(err, &several) {
		err = &api.Error{Code: api.CodeRefused, Message: err.Error(), Fields: several, Next: "slipway list"}
	}
	return m, err
}

// activeRun is the machine's run that is not over, or its last one.
func (s *Service) activeRun(ctx context.Context, machine string) (runs []orchestrator.RunView, active *orchestrator.RunView, err error) {
	runs, err = s.Store.Runs(ctx, orchestrator.RunFilter{Machine: machine})
	if err != nil {
		return nil, nil, err
	}
	for i := range runs {
		if runs[i].Status.Active() {
			active = &runs[i]
		}
	}
	return runs, active, nil
}

func (s *Service) getMachine(r *http.Request) (any, error) {
	ctx := r.Context()
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	runs, active, err := s.activeRun(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	attempts, err := s.Store.Attempts(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	out := api.Machine{
		ID: m.ID, Tenant: m.Tenant, Name: m.Name, Hostname: m.Hostname, Image: m.Image, Plan: m.Plan, Firewall: m.Firewall, SSHKeys: m.SSHKeys,
		State: m.State, Presence: string(m.Presence), VM: m.VM, Disks: m.Disks, HostKey: m.HostKey, Identity: m.Identity, Created: m.CreatedAt, Updated: m.UpdatedAt,
		Placement: api.Placement{Pool: m.Placement.Pool, Host: m.Placement.Host, SR: m.Placement.SR, Private: m.Placement.Private, Public: m.Placement.Public,
			MAC: m.Placement.MAC, ConsolePort: m.Placement.ConsolePort, DHCP: m.Placement.DHCP, Firewall: m.Placement.Firewall, Console: m.Placement.Console},
		Runs: []api.Run{}, Attempts: []api.Attempt{},
	}
	if m.Placement.Console != "" {
		place, err := consolePlaces(s.Config, s.Store)(ctx, m.Placement)
		if err != nil {
			return nil, err
		}
		out.Placement.ConsoleAddress, out.Placement.ConsoleBackend = place.Host, string(place.Backend)
	}
	for _, v := range runs {
		out.Runs = append(out.Runs, runOf(v))
	}
	for _, a := range attempts {
		out.Attempts = append(out.Attempts, attemptOf(a))
	}
	if out.Entries, err = s.entries(ctx, m); err != nil {
		return nil, err
	}
	if active != nil {
		out.Exits, out.Hint = s.exits(*active), hint(*active)
	}
	return out, nil
}

func (s *Service) exits(v orchestrator.RunView) []string {
	process, ok := s.Processes[v.Process]
	if !ok {
		return nil
	}
	return orchestrator.Exits(v.Run, process)
}

func (s *Service) entries(ctx context.Context, m orchestrator.Machine) ([]api.Entry, error) {
	var entries []api.Entry
	for _, group := range []string{m.Placement.DHCP, m.Placement.Firewall, m.Placement.Console} {
		if group == "" {
			continue
		}
		state, err := s.Store.EntryState(ctx, group, m.ID)
		if err != nil {
			return nil, err
		}
		if state.Found {
			entries = append(entries, api.Entry{Group: group, Applied: state.IsApplied(), Removed: state.Removed, Bad: state.Bad, Problem: state.Problem})
		}
	}
	return entries, nil
}

// lookTimeout bounds one look at the world outside, so that an explanation does not wait for who hangs.
const lookTimeout = 15 * time.Second

// observe looks at the world before anybody decides: what is there of the machine, a line each. It changes nothing. The store is read first:
// a pool that hangs, and uses up the time, is no fault of the database.
func (s *Service) observe(ctx context.Context, m orchestrator.Machine) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	entries, unread := s.entries(ctx, m)
	console, unplaced := ConsolePlace{}, error(nil)
	if m.Placement.Console != "" {
		console, unplaced = consolePlaces(s.Config, s.Store)(ctx, m.Placement)
	}
	if m.Placement.IsZero() {
		say("nothing is reserved for it")
	} else {
		found = append(found, s.lookForVM(ctx, m))
	}
	if m.Placement.Console != "" && unplaced == nil {
		say("its console is %s's, at %s port %d", console.Backend, orElse(console.Host, "the hosts of group "+m.Placement.Console), m.Placement.ConsolePort)
	}
	if unread != nil {
		say("its entries could not be read: %v", unread)
	}
	for _, e := range entries {
		switch {
		case e.Bad != "":
			say("group %s refuses it: %s", e.Group, e.Bad)
		case e.Removed && e.Applied:
			say("group %s has dropped it", e.Group)
		case e.Applied:
			say("group %s carries it", e.Group)
		default:
			say("group %s does not carry its newest entry yet; %s", e.Group, orElse(e.Problem, "no problem is known"))
		}
	}
	return found
}

func (s *Service) lookForVM(ctx context.Context, m orchestrator.Machine) string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	vm, err := s.Xapi.FindMachine(ctx, orchestrator.MachineRef{Pool: m.Placement.Pool, Machine: m.ID, VM: m.VM, LookOnly: true})
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return fmt.Sprintf("pool %s has no VM of it", m.Placement.Pool)
	case err != nil:
		return fmt.Sprintf("pool %s could not be asked: %v", m.Placement.Pool, err)
	default:
		return fmt.Sprintf("pool %s has VM %s (%s, %d disks, %s)", m.Placement.Pool, vm.UUID, vm.Power, len(vm.Disks), templateOrVM(vm))
	}
}

func templateOrVM(vm orchestrator.VM) string {
	if vm.Template {
		return "still a template"
	}
	return fmt.Sprintf("%d MiB, %d vCPUs", vm.MemoryMiB, vm.VCPUs)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// hint is what to do about a run that does not get on, by its kind.
func hint(v orchestrator.RunView) string {
	if v.Status != orchestrator.StatusParked && v.Status != orchestrator.StatusWaiting {
		return ""
	}
	if v.Halted() {
		return fmt.Sprintf("nothing of it was done; slipway maintenance list shows how many wait. If they are meant: %s. If not: slipway cancel %s", releaseCommand(v.Pool, v.Process), v.Machine)
	}
	switch v.Kind {
	case orchestrator.Away:
		if v.Status == orchestrator.StatusWaiting {
			return "somebody who is needed does not answer; it goes on by itself when he does: slipway pool"
		}
		return "nobody answered for too long; when he does again: slipway retry " + v.Machine
	case orchestrator.Exhausted:
		return "there is no room; it goes on by itself when some is free: slipway pool"
	case orchestrator.Unknown:
		return "an answer was lost; retry observes before it acts: slipway retry " + v.Machine
	case orchestrator.Permanent:
		return "no repetition helps as things stand; put right what the reason says, then: slipway retry " + v.Machine
	case orchestrator.Transient, orchestrator.Conflict:
		if v.Status == orchestrator.StatusParked {
			return "the attempts are used up; when the cause is gone: slipway retry " + v.Machine
		}
	}
	return ""
}

func (s *Service) getExplanation(r *http.Request) (any, error) {
	ctx := r.Context()
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	_, active, err := s.activeRun(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	attempts, err := s.Store.Attempts(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	e := api.Explanation{Machine: m.ID, Found: s.observe(ctx, m)}
	for _, a := range attempts {
		if a.Step == "place" && len(a.Detail) > 0 {
			e.Placement = nil
			if err := json.Unmarshal(a.Detail, &e.Placement); err != nil {
				s.log.Debug("placement detail", "error", err)
			}
		}
	}
	if active == nil {
		e.Now = fmt.Sprintf("no run is active; the machine is %s", m.State)
		return e, nil
	}
	e.Now = fmt.Sprintf("%s is %s in state %s at step %s, attempt %d", active.Process, active.Status, active.State, active.Step, active.Attempt)
	if active.Reason != "" {
		e.Now += ": " + active.Reason
	}
	if active.Holder == "" && active.Status != orchestrator.StatusParked {
		workers, err := s.Store.Workers(ctx)
		if err != nil {
			return nil, err
		}
		if why := untaken(workers, active.Run); why != "" {
			e.Found = append(e.Found, why)
		}
	}
	if active.Process == install.Name && active.Step == install.StepAwait {
		e.Found = append(e.Found, s.signs(ctx, m, active.Status == orchestrator.StatusParked)...)
	}
	e.Exits, e.Hint = s.exits(*active), hint(*active)
	return e, nil
}

func (s *Service) getPools(r *http.Request) (any, error) {
	ledger, err := s.Store.Ledger(r.Context())
	if err != nil {
		return nil, err
	}
	pools := make([]api.Pool, 0, len(s.Estate.Pools))
	for _, p := range s.Estate.Pools {
		out := api.Pool{ID: p.ID, Strategy: string(p.Strategy), Images: p.Images, PrivateFree: ledger.Free(p.Private), PublicFree: ledger.Free(p.Public)}
		if hold, held := ledger.Held[orchestrator.PoolSubject(p.ID)]; held {
			out.Maintenance = hold.String()
		}
		if known, ok := ledger.Pools[p.ID]; ok {
			out.Machines = known.Machines
			for _, h := range known.Hosts {
				out.Hosts = append(out.Hosts, api.Host{UUID: h.UUID, Name: h.Name, Enabled: h.Enabled, MemoryMiB: h.MemoryMiB, ReservedMiB: h.ReservedMiB})
			}
			for _, sr := range known.SRs {
				out.SRs = append(out.SRs, api.SR{UUID: sr.UUID, Name: sr.Name, Bytes: sr.Bytes, ReservedBytes: sr.ReservedBytes})
			}
		} else {
			out.Problem = "has not been read yet"
		}
		pools = append(pools, out)
	}
	return pools, nil
}

func (s *Service) getAddresses(r *http.Request) (any, error) {
	records, err := s.Store.Addresses(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Address, len(records))
	for i, a := range records {
		out[i] = api.Address{Pool: a.Pool, Address: a.Address, Role: a.Role, Owner: a.Owner, Machine: a.Machine, State: a.State, Until: a.Until, Note: a.Note}
	}
	return out, nil
}

func (s *Service) mark(r *http.Request) (api.Mark, error) {
	var m api.Mark
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil || !m.Address.IsValid() {
		return m, orchestrator.FieldErrors{{Field: "address", Problem: "is not an address", Fix: "write one such as 10.0.0.9"}}
	}
	if _, ok := s.Estate.PoolByID(m.Pool); !ok {
		return m, orchestrator.FieldErrors{{Field: "pool", Problem: fmt.Sprintf("%q is unknown", m.Pool), Fix: "see slipway pool"}}
	}
	return m, nil
}

func (s *Service) postAddress(r *http.Request) (any, error) {
	m, err := s.mark(r)
	if err != nil {
		return nil, err
	}
	if m.Role, err = s.roleOf(m); err != nil || m.DryRun {
		return struct{}{}, err
	}
	record := orchestrator.AddressRecord{Pool: m.Pool, Address: m.Address, Role: m.Role, Owner: orchestrator.OwnerForeign, State: orchestrator.AddressForeign, Note: m.Note}
	return struct{}{}, s.Store.PutAddress(r.Context(), record, actor(r.Context()), m.Reason)
}

// roleOf is what an address is in its pool: one that is in none of its prefixes is never given out, and a mark on it means another one.
func (s *Service) roleOf(m api.Mark) (string, error) {
	pool, _ := s.Estate.PoolByID(m.Pool)
	var in []string
	for _, of := range []struct {
		role   string
		prefix netip.Prefix
	}{{"private", pool.Private.Prefix}, {"public", pool.Public.Prefix}} {
		if of.prefix.IsValid() && of.prefix.Contains(m.Address) {
			in = append(in, of.role)
		}
	}
	switch {
	case len(in) == 0:
		return "", orchestrator.FieldErrors{{Field: "address", Problem: fmt.Sprintf("%s is in no prefix of pool %s and is never given out there", m.Address, m.Pool), Fix: fmt.Sprintf("give one of %s or %s", pool.Private.Prefix, pool.Public.Prefix)}}
	case m.Role == "":
		return in[0], nil
	case !slices.Contains(in, m.Role):
		return "", orchestrator.FieldErrors{{Field: "role", Problem: fmt.Sprintf("%s is no %s address of pool %s", m.Address, m.Role, m.Pool), Fix: "say " + in[0] + ", or leave it out"}}
	}
	return m.Role, nil
}

func (s *Service) deleteAddress(r *http.Request) (any, error) {
	m, err := s.mark(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, missing(s.Store.DropAddress(r.Context(), m.Pool, m.Address, actor(r.Context()), m.Reason), "slipway ip")
}

func (s *Service) getGroups(r *http.Request) (any, error) {
	groups, err := s.Store.Groups(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Group, 0, len(groups))
	for _, g := range groups {
		members, err := s.Store.Members(r.Context(), g.ID)
		if err != nil {
			return nil, err
		}
		group := api.Group{ID: g.ID, Unit: string(g.Unit), Generation: g.Generation, Applied: g.Applied, Entries: g.Entries, Maintenance: g.Held}
		for _, m := range members {
			group.Members = append(group.Members, api.Member{Name: m.Name, Applied: m.Applied, Dirty: m.Dirty, Halted: m.Halted, Problem: m.Problem, Seen: m.SeenAt, Maintenance: m.Held})
		}
		out = append(out, group)
	}
	return out, nil
}

func decodeAct(r *http.Request) (api.Act, error) {
	var ask api.Act
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || !ask.Yes {
		return ask, orchestrator.FieldErrors{{Field: "yes", Problem: "was not said", Fix: "add --yes"}}
	}
	return ask, nil
}

// decodeGraveAct is decodeAct for what cannot be taken back, or shows a secret: that needs a reason.
func decodeGraveAct(r *http.Request) (api.Act, error) {
	ask, err := decodeAct(r)
	if err == nil {
		err = needReason(ask.Reason)
	}
	return ask, err
}

func needReason(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return missingReason
	}
	return nil
}

func (s *Service) postResume(r *http.Request) (any, error) {
	ask, err := decodeGraveAct(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, missing(s.Store.Resume(r.Context(), r.PathValue("group"), r.PathValue("member"), actor(r.Context()), ask.Reason), "slipway group")
}

func (s *Service) postApproveShrink(r *http.Request) (any, error) {
	ask, err := decodeGraveAct(r)
	if err != nil {
		return nil, err
	}
	group := r.PathValue("group")
	g, _, err := s.Store.Entries(r.Context(), group)
	if err != nil {
		return nil, missing(err, "slipway group")
	}
	return struct{}{}, s.Store.ApproveShrink(r.Context(), group, g.Generation, actor(r.Context()), ask.Reason)
}

// brokerAway tells a broker that does not answer from a letter that is not there.
func brokerAway(err error) error {
	if orchestrator.KindOf(err) == orchestrator.Transient || orchestrator.KindOf(err) == orchestrator.Unknown {
		return &api.Error{Code: api.CodeAway, Message: api.Words(err.Error()), Next: "slipway check"}
	}
	return err
}

func (s *Service) getDead(r *http.Request) (any, error) {
	letters, err := s.Queue.Dead(r.Context(), 1000)
	if err != nil {
		return nil, brokerAway(err)
	}
	out := make([]api.DeadLetter, len(letters))
	for i, l := range letters {
		out[i] = api.DeadLetter{ID: l.ID, Reason: l.Reason, At: l.At, Body: string(l.Body)}
	}
	return out, nil
}

func (s *Service) postRequeue(r *http.Request) (any, error) {
	return s.onLetter(r, "requeue-letter", s.Queue.RequeueDead)
}

func (s *Service) deleteDead(r *http.Request) (any, error) {
	return s.onLetter(r, "drop-letter", s.Queue.DropDead)
}

// onLetter records what was asked before it is done, for the broker is no part of the transaction, and when it was not done, that as well.
func (s *Service) onLetter(r *http.Request, verb string, do func(context.Context, string) error) (any, error) {
	id := r.PathValue("id")
	if err := s.Store.RecordAct(r.Context(), actor(r.Context()), verb, id, ""); err != nil {
		return nil, err
	}
	failed := do(r.Context(), id)
	if failed != nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
		defer cancel()
		if err := s.Store.RecordAct(after, actor(r.Context()), verb, id, "was not done: "+failed.Error()); err != nil {
			return nil, errors.Join(failed, err)
		}
	}
	return struct{}{}, missing(failed, "slipway dead")
}

// missing sends who names what is not there to the list of what is.
func missing(err error, list string) error {
	if errors.Is(err, orchestrator.ErrNotFound) {
		return &api.Error{Code: api.CodeNotFound, Message: api.Words(err.Error()), Next: list}
	}
	return err
}
