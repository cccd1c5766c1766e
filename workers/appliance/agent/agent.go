package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/workers/appliance/apply"
)

// Apply makes the request's state live, or says why not. Every answer carries what is live when it is given.
//
// Which lower number means what: a fence below the highest seen is Stale, whatever its generation; a generation below the live one under
// a fence that is in charge is Newer, for then the store has forgotten what the appliance knows. An operator's word is a generation above.
//
// Nothing stops an apply between the first rename and the answer but a kill: a deadline or a cancel there puts the old state back.
func (a *Agent) Apply(ctx context.Context, req apply.Request) apply.Answer {
	unit, ok := a.units[req.Unit]
	if !ok {
		return apply.Answer{Code: apply.Refused, Message: clean(fmt.Sprintf("unit %q is not on this appliance; it has: %s",
			req.Unit, strings.Join(slices.Sorted(maps.Keys(a.units)), ", ")))}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("apply took more than %s", a.timeout))
	defer cancel()
	j := newJob(a, unit, req)
	answer := j.run(ctx)
	answer.Generation, answer.SHA256, answer.Rows = j.state.Live.Generation, j.state.Live.SHA256, j.state.Live.Rows
	answer.Reloaded = j.reloaded
	if answer.Message != "" {
		j.notes = slices.Insert(j.notes, 0, answer.Message)
	}
	answer.Message = clean(strings.Join(j.notes, "; "))
	level := slog.LevelInfo
	if req.ReadOnly { // asked by every plan and audit
		level = slog.LevelDebug
	}
	a.log.Log(ctx, level, "apply", "unit", req.Unit, "fence", req.Fence, "asked", req.Generation, "code", string(answer.Code),
		"generation", answer.Generation, "rows", answer.Rows, "reloaded", answer.Reloaded, "message", answer.Message)
	return answer
}

// job is one apply under way.
type job struct {
	agent  *Agent
	unit   Unit
	req    apply.Request
	store  store
	places []place // in the order of names

	state    state
	journal  *journal     // what an interrupted or failing apply has left; nil when the targets are whole
	unproven error        // the old state was put back and does not work
	cut      []netip.Addr // whose connections end with the request's state
	reloaded bool
	notes    []string // what an operator should know besides
}

func newJob(a *Agent, unit Unit, req apply.Request) *job {
	j := &job{agent: a, unit: unit, req: req, store: store{filepath.Join(a.stateDir, req.Unit)}}
	for name, target := range unit.Targets() {
		j.places = append(j.places, place{name: name, path: target.Path, mode: cmp.Or(target.Mode.Perm(), 0o644)})
	}
	slices.SortFunc(j.places, func(x, y place) int { return strings.Compare(x.name, y.name) })
	return j
}

func (j *job) run(ctx context.Context) apply.Answer {
	state, err := j.store.loadState() // for answers before the lock; whole at any time
	if err != nil {
		return answerf(apply.Broken, "%v: repair or remove it", err)
	}
	j.state = state
	if j.req.Trace != "" {
		return j.trace(ctx)
	}
	if j.req.Survey {
		return j.survey(ctx)
	}
	if j.req.ReadOnly {
		return j.observe(ctx)
	}
	if err := validate(j.req, j.places); err != nil {
		return answerf(apply.Refused, "%v", err)
	}
	if err := j.store.prepare(); err != nil {
		return answerf(apply.Unsupported, "state directory: %v", err)
	}
	release, err := acquire(ctx, filepath.Join(j.store.dir, "lock"), j.agent.lockWait)
	if err != nil {
		return answerf(apply.Busy, "%v", err)
	}
	defer release()
	if j.state, err = j.store.loadState(); err != nil {
		return answerf(apply.Broken, "%v: repair or remove it", err)
	}
	if j.journal, err = j.store.loadJournal(); err != nil {
		return answerf(apply.Broken, "%v: repair it, or remove it once the files are right", err)
	}
	if j.req.Fence < j.state.Fence {
		return answerf(apply.Stale, "fence %d has been followed by %d", j.req.Fence, j.state.Fence)
	}
	if j.req.CheckOnly {
		return j.checkOnly(ctx)
	}
	if answer, ok := j.expected(); !ok {
		return answer
	}
	return j.change(ctx)
}

func (j *job) checkOnly(ctx context.Context) apply.Answer {
	if j.journal != nil {
		j.notef("an apply of generation %d was interrupted and waits for the next one", j.journal.Next.Generation)
	}
	if answer, ok := j.check(ctx); !ok {
		return answer
	}
	return apply.Answer{Code: apply.Checked}
}

// change is everything that may touch the appliance.
func (j *job) change(ctx context.Context) apply.Answer {
	if j.req.Fence > j.state.Fence {
		next := j.state
		next.Fence = j.req.Fence
		if err := j.store.saveState(next); err != nil {
			return answerf(apply.Unsupported, "state: %v", err)
		}
		j.state = next
		j.point("fence")
	}
	j.sweep()
	if err := j.heal(ctx); err != nil {
		return answerf(apply.Broken, "%v", err)
	}
	if j.req.Generation < j.state.Live.Generation {
		return j.refuse(answerf(apply.Newer, "generation %d is live and %d was asked for", j.state.Live.Generation, j.req.Generation))
	}
	if j.forgotten() {
		return j.refuse(answerf(apply.Newer, "a state is live that the database does not remember to have asked for (generation %d, %.12s…)", j.state.Live.Generation, j.state.Live.SHA256))
	}
	sum, contents, err := liveSum(j.places)
	if err != nil {
		return j.refuse(answerf(apply.Unsupported, "%v", err))
	}
	j.cut = j.cuts(contents)
	if sum == j.req.SHA256 && j.sameAsLive() && j.unit.Prove(ctx) == nil {
		return j.unchanged()
	}
	from, to := j.rows(contents)
	if problem := shrinks(from, to, countLeft(contents, j.req.Left)); problem != "" && !j.req.ShrinkApproved {
		return j.refuse(answerf(apply.Shrink, "%s", problem))
	}
	if answer, ok := j.check(ctx); !ok {
		return j.refuse(answer)
	}
	return j.swap(ctx)
}

// forgotten is true when the asker does not know of what was last proven here.
func (j *job) forgotten() bool {
	now := j.state.Live.SHA256
	return len(j.req.Known) > 0 && now != "" && now != j.req.SHA256 && !slices.Contains(j.req.Known, now)
}

// sameAsLive is true when nothing but the generation's number can differ between the request and what was last proven.
func (j *job) sameAsLive() bool {
	now := j.state.Live
	if j.journal != nil || now.SHA256 != j.req.SHA256 {
		return false
	}
	if now.Generation != j.req.Generation {
		return len(j.cut) == 0
	}
	for _, addr := range j.cut {
		if !slices.Contains(now.Cut, addr) {
			return false
		}
	}
	return true
}

func (j *job) unchanged() apply.Answer {
	if next := j.next(); next.Generation != j.state.Live.Generation || next.Rows != j.state.Live.Rows {
		if err := j.record(next); err != nil {
			return answerf(apply.Unsupported, "state: %v", err)
		}
	}
	return apply.Answer{Code: apply.Unchanged}
}

// rows counts the live and the asked-for machines: by the files where the unit can, and by the numbers given, whichever is worse.
func (j *job) rows(live map[string][]byte) (from, to int) {
	from, to = j.state.Live.Rows, j.req.Rows
	counter, ok := j.unit.(RowCounter)
	if !ok {
		return from, to
	}
	from = max(from, counter.CountRows(live))
	if n := counter.CountRows(j.asked()); n >= 0 {
		to = min(to, n)
	}
	return from, to
}

// asked are the request's files by name.
func (j *job) asked() map[string][]byte {
	asked := map[string][]byte{}
	for _, f := range j.req.Files {
		asked[f.Name] = []byte(f.Content)
	}
	return asked
}

// cuts is what the unit says by the live files, where it can tell; else what the request says.
func (j *job) cuts(live map[string][]byte) []netip.Addr {
	cutter, ok := j.unit.(Cutter)
	if !ok {
		return j.req.Cut
	}
	cut, err := cutter.Cuts(live, j.asked())
	if err != nil {
		return nil // the candidate is no state at all, which its check is about to say
	}
	return cut
}

// check writes the candidate beside the first target, where the tool may read (a profile of AppArmor may let dhcpd see nothing but
// /etc/dhcp), and lets the unit judge it.
func (j *job) check(ctx context.Context) (apply.Answer, bool) {
	dir := j.candidateDir()
	err := j.writeCandidate(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return answerf(apply.Unsupported, "candidate: %v", err), false
	}
	j.point("candidate")
	err = j.unit.Check(ctx, dir)
	j.point("checked")
	if removeErr := os.RemoveAll(dir); removeErr != nil && err == nil {
		err = removeErr
	}
	var fault *Fault
	switch {
	case err == nil:
		return apply.Answer{}, true
	case j.filesOnly() && toolMissing(err):
		j.notef("placed and not judged: %v", err)
		return apply.Answer{}, true
	case errors.As(err, &fault):
		return apply.Answer{Code: apply.Culprit, Message: fault.Message, File: fault.File, Line: fault.Line}, false
	case ctx.Err() != nil:
		return answerf(apply.Restored, "nothing was touched: %v: %v", context.Cause(ctx), err), false
	default:
		return answerf(apply.Unsupported, "the candidate could not be judged: %v", err), false
	}
}

func (j *job) candidateDir() string {
	return filepath.Join(filepath.Dir(j.places[0].path), candidatePrefix+j.req.Unit)
}

func (j *job) writeCandidate(dir string) error {
	if err := os.RemoveAll(dir); err != nil { // an interrupted apply's
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i, p := range j.places {
		f, err := os.OpenFile(filepath.Join(dir, p.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(j.files()[i].Content)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// files are the request's, in the order of the places.
func (j *job) files() []apply.File {
	return slices.SortedFunc(slices.Values(j.req.Files), func(x, y apply.File) int { return strings.Compare(x.Name, y.Name) })
}

// next is what the request makes live.
func (j *job) next() live {
	return live{Generation: j.req.Generation, SHA256: j.req.SHA256, Rows: j.req.Rows, Cut: j.cut}
}

// record is the commit: from here on the new state is the live one.
func (j *job) record(next live) error {
	st := state{Fence: j.state.Fence, Live: next}
	if err := j.store.saveState(st); err != nil {
		return err
	}
	j.state = st
	return nil
}

// refuse gives the answer, unless the old state itself does not work: then that is the news, and nobody's row is to blame.
func (j *job) refuse(answer apply.Answer) apply.Answer {
	if j.unproven == nil {
		return answer
	}
	return answerf(apply.Broken, "the old state does not work: %v (and for generation %d: %s: %s)", j.unproven, j.req.Generation, answer.Code, answer.Message)
}

// filesOnly is true of a directory appliance.
func (j *job) filesOnly() bool {
	_, ok := j.unit.(directory)
	return ok
}

func (j *job) notef(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

func (j *job) point(name string) {
	if j.agent.crash != nil {
		j.agent.crash(name)
	}
}

func answerf(code apply.Code, format string, args ...any) apply.Answer {
	return apply.Answer{Code: code, Message: fmt.Sprintf(format, args...)}
}
