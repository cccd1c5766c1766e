package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"slipway/workers/appliance/apply"
)

// observeTimeout bounds asking a service whether it runs what the files say: a server that is coming up is not waited for.
const observeTimeout = 10 * time.Second

// observe answers what is live. It writes nothing at all, neither files nor state, and needs no fence: whoever may ask for an apply may
// ask for this.
func (j *job) observe(ctx context.Context) apply.Answer {
	if len(j.req.Files) > 0 || len(j.req.Cut) > 0 || j.req.CheckOnly || j.req.Rows < 0 || j.req.Expect != "" {
		return answerf(apply.Refused, "a read-only request carries a unit and rows only")
	}
	release, err := share(ctx, filepath.Join(j.store.dir, "lock"), j.agent.lockWait)
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
	live := &apply.Live{}
	contents, total := map[string][]byte{}, 0
	for _, p := range j.places {
		f, content, err := liveFile(p)
		if err != nil {
			return answerf(apply.Unsupported, "%v", err)
		}
		if total += len(content); total > apply.MaxLive {
			return answerf(apply.Unsupported, "the files of the unit hold more than %d bytes", apply.MaxLive)
		}
		f.Content = string(content)
		if f.Exists {
			contents[p.name] = content
		}
		live.Files = append(live.Files, f)
	}
	live.Rows = j.state.Live.Rows
	if counter, ok := j.unit.(RowCounter); ok {
		live.Rows = max(live.Rows, counter.CountRows(contents))
	}
	live.Shrinks = shrinks(live.Rows, j.req.Rows, countLeft(contents, j.req.Left))
	if j.journal != nil {
		live.Interrupted = j.journal.Next.Generation
	}
	if len(contents) > 0 || j.state.Live.Generation > 0 { // where nothing was ever placed there is nothing to be at odds with
		if err := j.watch(ctx); err != nil {
			live.Fault = clean(err.Error())
		}
	}
	return apply.Answer{Code: apply.Observed, Live: live}
}

// watch asks the unit without any effect.
func (j *job) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, observeTimeout, fmt.Errorf("no proof within %s", observeTimeout))
	defer cancel()
	if o, ok := j.unit.(Observer); ok {
		return o.Observe(ctx)
	}
	return j.unit.Prove(ctx)
}

func liveFile(p place) (apply.LiveFile, []byte, error) {
	h, err := look(p.path)
	if err != nil {
		return apply.LiveFile{}, nil, err
	}
	f := apply.LiveFile{Name: p.name, Exists: h.exists, Want: uint32(p.mode)}
	if h.exists {
		f.Mode, f.SHA256 = uint32(h.mode), digest(h.content)
	}
	return f, h.content, nil
}

// expected is false when something else lies there than the asker has seen. It is asked under the lock and before anything is touched.
func (j *job) expected() (apply.Answer, bool) {
	if j.req.Expect == "" {
		return apply.Answer{}, true
	}
	var files []apply.LiveFile
	for _, p := range j.places {
		f, _, err := liveFile(p)
		if err != nil {
			return answerf(apply.Unsupported, "%v", err), false
		}
		files = append(files, f)
	}
	if sum := apply.SumLive(files); sum != j.req.Expect {
		return answerf(apply.Moved, "the files are not those that were seen any more"), false
	}
	return apply.Answer{}, true
}

// share waits for an apply that is running and keeps the next one off, with a lock that readers share. Without a lock file there was never
// an apply, and none is made.
func share(ctx context.Context, path string, wait time.Duration) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	return flock(ctx, f, syscall.LOCK_SH, wait)
}
