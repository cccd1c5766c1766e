// Package replay runs recordings of a real xapi against a fresh simulator and says where the two agree.
package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/sim/xapi"
)

// Report is the outcome of a replay.
type Report struct{ Files []FileReport }

// FileReport is the outcome of one recording. Exchanges = Agree + Excepted + Differ.
type FileReport struct {
	Name                               string
	Exchanges, Agree, Excepted, Differ int
	Exceptions                         []Outcome // with the reason
	Differences                        []Outcome
}

// Outcome is one exchange that did not agree.
type Outcome struct {
	Index          int
	Method, Reason string
}

// Own counts the exchanges that are xapi's own (all but the excepted ones), and how many of them agree.
func (r Report) Own() (agree, own int) {
	for _, f := range r.Files {
		agree += f.Agree
		own += f.Exchanges - f.Excepted
	}
	return agree, own
}

// timeScale is how much faster than recorded the calls follow each other.
const timeScale = 0.2

// Run replays every recording of a directory, each against a pool of its own, and writes the agreement per file, every exception with its
// reason and every difference.
func Run(ctx context.Context, dir string, w io.Writer) (Report, error) {
	recordings, err := load(dir)
	if err != nil {
		return Report{}, err
	}
	var report Report
	for _, r := range recordings {
		f, err := runOne(ctx, r)
		if err != nil {
			return report, fmt.Errorf("%s: %w", r.name, err)
		}
		report.Files = append(report.Files, f)
		f.write(w)
	}
	agree, own := report.Own()
	if own > 0 {
		fmt.Fprintf(w, "all: %d of %d exchanges agree (%.1f %%)\n", agree, own, 100*float64(agree)/float64(own))
	}
	return report, nil
}

func (f FileReport) write(w io.Writer) {
	own := f.Exchanges - f.Excepted
	fmt.Fprintf(w, "%s: %d of %d exchanges agree, %d excepted\n", f.Name, f.Agree, own, f.Excepted)
	for _, o := range f.Exceptions {
		fmt.Fprintf(w, "  except %d %s: %s\n", o.Index, o.Method, o.Reason)
	}
	for _, o := range f.Differences {
		fmt.Fprintf(w, "  differ %d %s: %s\n", o.Index, o.Method, o.Reason)
	}
}

// player replays one recording.
type player struct {
	ctx     context.Context
	sim     *xapi.Server
	handler http.Handler
	rec     *recording
	setup   setup
	started time.Time

	mu      sync.Mutex
	match   *matcher
	report  FileReport
	threads sync.WaitGroup
	thawers map[string]func()
}

func runOne(ctx context.Context, r *recording) (FileReport, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	p := &player{ctx: ctx, rec: r, setup: setupFor(r.name), match: newMatcher(), report: FileReport{Name: r.name}, thawers: map[string]func(){}}
	sim, err := xapi.New(p.setup.config())
	if err != nil {
		return p.report, err
	}
	defer sim.Close()
	p.sim, p.handler = sim, sim.Handler()
	if p.setup.slave {
		p.handler = sim.SlaveHandler(1)
	}
	if err := p.prepare(); err != nil {
		return p.report, err
	}
	p.started = time.Now()
	for _, e := range schedule(r.entries) {
		if ctx.Err() != nil {
			return p.report, ctx.Err()
		}
		p.play(e)
	}
	p.threads.Wait()
	sort.Slice(p.report.Exceptions, func(i, j int) bool { return p.report.Exceptions[i].Index < p.report.Exceptions[j].Index })
	sort.Slice(p.report.Differences, func(i, j int) bool { return p.report.Differences[i].Index < p.report.Differences[j].Index })
	return p.report, nil
}

// threaded calls ran beside the others; they stand in a recording where they ended.
func (e *entry) threaded() bool { return e.Method != "" && e.T != nil && (e.Note != "" || e.beside) }

// schedule puts the entries in the order in which they began. What has no time keeps its place behind its forerunner.
func schedule(entries []*entry) []*entry {
	type timed struct {
		e  *entry
		at float64
	}
	list := make([]timed, len(entries))
	last := 0.0
	for _, e := range entries {
		for _, other := range entries {
			if e.T != nil && other.T != nil && *other.T > *e.T && *other.T < *e.T+e.DT-0.01 {
				e.beside = true
			}
		}
	}
	for i, e := range entries {
		list[i] = timed{e, last}
		if e.T != nil {
			list[i].at = *e.T
			if !e.threaded() {
				last = *e.T + e.DT
			}
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].at < list[j].at })
	out := make([]*entry, len(list))
	for i := range list {
		out[i] = list[i].e
	}
	return out
}

func (p *player) play(e *entry) {
	if before := p.setup.before[e.index]; before != nil {
		before(p)
	}
	switch {
	case e.Method == "" && e.Note != "":
		p.note(e.Note)
	case e.HTTP != "":
		p.http(e)
	case e.Task != "":
		p.taskEnded(e)
	case e.Method != "" && (e.hasResult || e.hasError):
		if e.T != nil {
			p.until(time.Duration(*e.T * timeScale * float64(time.Second)))
		}
		if e.threaded() {
			p.threads.Go(func() { p.exchange(e) })
			return
		}
		p.exchange(e)
	}
}

func (p *player) until(at time.Duration) {
	t := time.NewTimer(time.Until(p.started.Add(at)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}

// note acts on the remarks that say what was done to the recorded pool.
func (p *player) note(text string) {
	switch {
	case strings.Contains(text, "daemon is frozen"):
		for _, m := range []string{"VM.start", "VM.clean_shutdown", "VM.hard_shutdown"} {
			p.thawers[m] = p.sim.Hold(m)
		}
	case text == "thawed":
		for _, thaw := range p.thawers {
			thaw()
		}
	case strings.HasPrefix(text, "toolstack restart"):
		p.sim.Restart()
	default:
		var op string
		var seconds float64
		if n, _ := fmt.Sscanf(text, "from here every backend %s takes %f s", &op, &seconds); n == 2 {
			p.delay(op, seconds)
		} else if n, _ := fmt.Sscanf(text, "backend %s is fast again", &op); n == 1 {
			p.delay(op, 0)
		}
	}
}

func (p *player) delay(op string, seconds float64) {
	d := time.Duration(seconds * timeScale * float64(time.Second))
	switch op {
	case "vdi_clone":
		p.sim.SetDelay("VDI.clone", d)
	case "vdi_resize":
		p.sim.SetDelay("VDI.resize", d)
	case "dd":
		p.sim.SetDelay("VDI.copying", d/5)
	}
}

// patience bounds how long a read is repeated until it agrees: the recording asked later than the replay does.
const (
	patience = 10
	between  = 20 * time.Millisecond
)

func (p *player) exchange(e *entry) {
	p.failing(e)
	p.mu.Lock()
	p.report.Exchanges++
	reason, excepted := p.setup.exception(e)
	params, _ := p.match.translateAll(any(e.Params)).([]any)
	p.mu.Unlock()
	if e.Method == "event.from" && len(params) == 4 {
		params[3] = scaled(params[3])
	}
	var problem string
	for try := range patience {
		if try > 0 {
			p.until(time.Since(p.started) + between)
		}
		result, failure, err := p.call(e.Method, params)
		problem = p.compare(e, result, failure, err)
		if problem == "" || !strings.Contains(e.Method, ".get_") {
			break
		}
		if excepted && try > 1 {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case problem == "" && !excepted:
		p.report.Agree++
	case excepted:
		p.report.Excepted++
		p.report.Exceptions = append(p.report.Exceptions, Outcome{e.index, e.Method, reason})
	default:
		p.report.Differ++
		p.report.Differences = append(p.report.Differences, Outcome{e.index, e.Method, problem})
	}
}

// taskEnded waits for a task as the recorder did, and learns what its result names. It counts as an exchange.
func (p *player) taskEnded(e *entry) {
	if reason, ok := p.setup.exception(e); ok {
		p.report.Exchanges++
		p.report.Excepted++
		p.report.Exceptions = append(p.report.Exceptions, Outcome{e.index, "task", reason})
		return
	}
	read := *e
	read.Method, read.hasResult = "task.get_record", true
	recorded := map[string]any{"status": e.Status, "result": e.Result, "error_info": e.Info}
	var problem string
	p.report.Exchanges++
	for range 4 * patience {
		result, failure, err := p.call("task.get_record", []any{p.session(), p.match.translate(e.Task)})
		rec, _ := result.(map[string]any)
		read.Result = any(recorded)
		problem = p.compare(&read, map[string]any{"status": rec["status"], "result": rec["result"], "error_info": rec["error_info"]}, failure, err)
		if problem == "" {
			p.report.Agree++
			return
		}
		p.until(time.Since(p.started) + between)
	}
	p.report.Differ++
	p.report.Differences = append(p.report.Differences, Outcome{e.index, "task of " + e.Task, problem})
}

// session is the simulator's session for the first one of the recording.
func (p *player) session() string {
	for _, e := range p.rec.entries {
		if s, ok := e.Result.(string); ok && e.Method == "session.login_with_password" {
			return p.match.translate(s)
		}
	}
	return ""
}

// failing makes the storage driver fail where the remark on a call says that the recorded one did.
func (p *player) failing(e *entry) {
	if !strings.Contains(e.Note, " fails with ") || !e.hasError {
		return
	}
	f := append([]string{e.Error.Message}, e.Error.Data...)
	methods := []string{e.Method}
	if e.Method == "VM.clone" {
		methods = append(methods, "VDI.clone")
	}
	for _, m := range methods {
		if err := p.sim.AddFault(xapi.Fault{Method: m, Times: 1, Error: f}); err != nil {
			p.report.Differences = append(p.report.Differences, Outcome{e.index, e.Method, err.Error()})
		}
	}
}

// pruneEvents leaves of an answer what a recording can say about another pool: in a dump of everything only the objects that the recording
// itself has named, no ids, and of valid_ref_counts the classes.
func (p *player) pruneEvents(since string, v any, recorded bool) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	dump := strings.Trim(since, "0,-1") == ""
	events, _ := m["events"].([]any)
	out := map[string]any{} // by class and reference: the order within one answer means nothing
	for _, item := range events {
		e, _ := item.(map[string]any)
		ref, _ := e["ref"].(string)
		if s, ok := e["snapshot"].(map[string]any); ok && s["is_control_domain"] == true {
			continue
		}
		_, known := p.match.forward[ref]
		if !recorded {
			_, known = p.match.back[ref]
		}
		if dump && !known || !known && e["operation"] != "add" {
			continue
		}
		kept := map[string]any{}
		for k, x := range e {
			if k == "snapshot" {
				if s, ok := x.(map[string]any); ok {
					x = pruneRecord(className(fmt.Sprint(e["class"])), s)
				}
			}
			if k != "id" {
				kept[k] = x
			}
		}
		out[fmt.Sprint(e["class"], " ", ref)] = kept
	}
	counts := map[string]any{}
	if c, ok := m["valid_ref_counts"].(map[string]any); ok {
		for k := range c {
			counts[k] = true
		}
	}
	return map[string]any{"events": out, "token": m["token"], "valid_ref_counts": counts}
}

func className(lower string) string {
	for _, c := range []string{"VM", "VM_guest_metrics", "VM_metrics", "VIF", "VBD", "VDI", "SR", "PIF", "PBD", "SM"} {
		if strings.EqualFold(c, lower) {
			return c
		}
	}
	return lower
}

// scaled shortens the timeout of event.from. Whole seconds stay: they test that a number of that type is taken.
func scaled(v any) any {
	switch x := v.(type) {
	case json.Number:
		if f, err := x.Float64(); err == nil && strings.ContainsAny(x.String(), ".e") {
			return json.Number(strconv.FormatFloat(f*timeScale, 'f', -1, 64))
		}
	case string:
		if f, err := strconv.ParseFloat(x, 64); err == nil {
			return strconv.FormatFloat(f*timeScale, 'f', -1, 64)
		}
	}
	return v
}

func (p *player) compare(e *entry, result any, failure []string, err error) string {
	if err != nil {
		return err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match.problem, p.match.path = "", nil
	ok := p.match.try(func() bool {
		if e.hasError {
			if failure == nil {
				return p.match.differ("recorded " + e.Error.Message + fmt.Sprint(e.Error.Data) + ", simulated " + show(result))
			}
			want := []any{e.Error.Message}
			for _, d := range e.Error.Data {
				want = append(want, d)
			}
			got := make([]any, len(failure))
			for i := range failure {
				got[i] = failure[i]
			}
			return len(want) == len(got) && p.match.inOrder(want, got) || p.match.differ("recorded "+show(want)+", simulated "+show(got))
		}
		if failure != nil {
			return p.match.differ("recorded " + show(e.Result) + ", simulated " + show(failure))
		}
		if e.Method == "event.from" {
			dump, _ := e.Params[2].(string)
			return p.match.equal(p.pruneEvents(dump, e.Result, true), p.pruneEvents(dump, result, false))
		}
		return p.match.equal(prune(e.Method, e.Result), prune(e.Method, result))
	})
	if ok {
		return ""
	}
	if p.match.problem == "" {
		return "differs"
	}
	return p.match.problem
}

func (p *player) call(method string, params []any) (any, []string, error) {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.setup.timeout())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/jsonrpc", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	w := &answer{header: http.Header{}}
	p.handler.ServeHTTP(w, req)
	var a struct {
		Result any            `json:"result"`
		Error  *recordedError `json:"error"`
	}
	dec := json.NewDecoder(&w.body)
	dec.UseNumber()
	if err := dec.Decode(&a); err != nil {
		return nil, nil, fmt.Errorf("answer of %s: %w", method, err)
	}
	if a.Error != nil {
		return nil, append([]string{a.Error.Message}, a.Error.Data...), nil
	}
	return a.Result, nil, nil
}

// answer is a ResponseWriter in memory.
type answer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }
func (a *answer) WriteHeader(int)             {}

var password = orchestrator.NewSecret("secret")
