package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"slipway/workers/appliance/apply"
)

// swap puts a checked candidate in place and makes it live, or brings the old state back.
func (j *job) swap(ctx context.Context) apply.Answer {
	if err := j.save(); err != nil {
		j.unstage()
		return j.refuse(answerf(apply.Unsupported, "nothing was touched: %v", err))
	}
	err := j.place()
	if err == nil {
		err = j.makeLive(ctx, j.journal.Next.SHA256, Change{Cut: j.cut})
	}
	if err == nil {
		err = j.commit()
	}
	if err == nil {
		return apply.Answer{Code: apply.Applied}
	}
	if restoreErr := j.restore(ctx, false); restoreErr != nil {
		return answerf(apply.Broken, "%v; and the old state: %v", err, restoreErr)
	}
	return answerf(apply.Restored, "%v", err)
}

// save stages the new files, keeps the old contents and writes the journal: the last moment at which nothing has been touched.
func (j *job) save() error {
	journal := journal{Next: j.next()}
	for i, p := range j.places {
		old, err := look(p.path)
		if err != nil {
			return err
		}
		entry := saved{Path: p.path, Exists: old.exists, UID: -1, GID: -1}
		if old.exists {
			entry.Mode, entry.UID, entry.GID = old.mode, old.uid, old.gid
			if entry.SHA256, err = j.store.keep(old.content); err != nil {
				return fmt.Errorf("keep %s: %w", p.path, err)
			}
		}
		j.point("kept " + p.name)
		if err := stage(p.path, []byte(j.files()[i].Content), p.mode, entry.UID, entry.GID); err != nil {
			return err
		}
		j.point("staged " + p.name)
		journal.Old = append(journal.Old, entry)
	}
	if err := j.store.saveJournal(journal); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.journal = &journal
	j.point("journalled")
	return nil
}

// place renames what is staged, file by file.
func (j *job) place() error {
	for _, p := range j.places {
		if err := os.Rename(stagedPath(p.path), p.path); err != nil {
			return err
		}
		j.point("renamed " + p.name)
		if err := syncDir(filepath.Dir(p.path)); err != nil {
			return err
		}
	}
	j.point("placed")
	return nil
}

// makeLive reloads what lies in the targets and reads it back.
func (j *job) makeLive(ctx context.Context, sum string, change Change) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	j.reloaded = !j.filesOnly()
	if err := j.unit.Reload(ctx, change); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	j.point("reloaded")
	if err := j.prove(ctx, sum); err != nil {
		return err
	}
	j.point("proven")
	return nil
}

// prove compares the targets with the sum they should have ("" leaves that out) and asks the unit.
func (j *job) prove(ctx context.Context, sum string) error {
	if sum != "" {
		found, _, err := liveSum(j.places)
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if found != sum {
			return errors.New("read back: somebody else has written the files")
		}
	}
	if err := j.unit.Prove(ctx); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return nil
}

// commit records the journal's state as live and lets the journal go.
func (j *job) commit() error {
	if err := j.record(j.journal.Next); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	j.point("recorded")
	return j.closeJournal()
}

// closeJournal comes after the record: failing here harms nothing, for the next apply finds the recorded state in the journal.
func (j *job) closeJournal() error {
	if err := j.store.dropJournal(); err != nil {
		j.notef("the journal stays: %v", err)
		return nil
	}
	j.point("closed")
	if err := j.store.forgetBackups(j.journal); err != nil {
		j.notef("old backups stay: %v", err)
	}
	j.journal = nil
	j.unproven = nil
	return nil
}

// heal puts an interrupted apply right before another one starts. All files in place: it is finished. Otherwise, or when what came
// does not work: it is undone. An old state that is in place and does not work is no reason to stop here, since the request may be the
// cure; an error is one: the files could not be put back.
func (j *job) heal(ctx context.Context) error {
	if j.journal == nil {
		return nil
	}
	next := j.journal.Next
	if j.state.Live.Generation == next.Generation && j.state.Live.SHA256 == next.SHA256 && !j.half(next) {
		return j.closeJournal() // killed between the record and this
	}
	if sum, _, err := liveSum(j.places); err == nil && sum == next.SHA256 && j.finish(ctx, next) == nil {
		j.notef("an interrupted apply of generation %d was finished first", next.Generation)
		return nil
	}
	err := j.restore(ctx, true)
	if errors.Is(err, errUnproven) {
		j.unproven = err
		err = nil
	}
	if err != nil {
		return fmt.Errorf("an interrupted apply of generation %d could not be undone: %w", next.Generation, err)
	}
	j.notef("an interrupted apply of generation %d was undone first", next.Generation)
	return nil
}

// half is true when the targets do not hold what the record says: the same state was being put back in place when the apply ended.
func (j *job) half(next live) bool {
	sum, _, err := liveSum(j.places)
	return err != nil || sum != next.SHA256
}

// finish makes files live that are all in place. Without connections to cut, a read-back that succeeds is enough.
func (j *job) finish(ctx context.Context, next live) error {
	if len(next.Cut) > 0 || j.prove(ctx, next.SHA256) != nil {
		if err := j.makeLive(ctx, next.SHA256, Change{Cut: next.Cut}); err != nil {
			return err
		}
	}
	return j.commit()
}

// errUnproven: the old files are back and do not work.
var errUnproven = errors.New("put back, and it does not work either")

// restore puts the journal's old files back and proves them, on time of its own. With gently it reloads nothing that is live already;
// after a failed reload nothing is taken for granted. The journal goes only when the old state is proven.
func (j *job) restore(ctx context.Context, gently bool) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), j.agent.restoreTimeout, fmt.Errorf("restoring took more than %s", j.agent.restoreTimeout))
	defer cancel()
	j.unstage()
	changed := false
	for _, old := range j.journal.Old {
		wrote, err := j.putBack(old)
		if err != nil {
			return fmt.Errorf("put back %s: %w", old.Path, err)
		}
		changed = changed || wrote
		j.point("put back " + filepath.Base(old.Path))
	}
	if !gently || changed || j.prove(ctx, "") != nil {
		if err := j.makeLive(ctx, "", Change{Restoring: true}); err != nil {
			return fmt.Errorf("%w: %w", errUnproven, err)
		}
	}
	return j.closeJournal()
}

// putBack gives one target its old content, mode and owner, or its absence. A target that has them is left as it is.
func (j *job) putBack(old saved) (wrote bool, err error) {
	now, err := look(old.Path)
	if err != nil {
		return false, err
	}
	if !old.Exists {
		if !now.exists {
			return false, nil
		}
		return true, removeFile(old.Path)
	}
	if now.exists && now.mode == old.Mode && digest(now.content) == old.SHA256 {
		return false, nil
	}
	content, err := j.store.kept(old.SHA256)
	if err != nil {
		return false, err
	}
	if err := stage(old.Path, content, old.Mode, old.UID, old.GID); err != nil {
		return false, err
	}
	if err := os.Rename(stagedPath(old.Path), old.Path); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(old.Path))
}

// sweep removes what an apply leaves behind that was killed before its journal. Whatever stays is written over, so errors are ignored.
func (j *job) sweep() {
	_ = os.RemoveAll(j.candidateDir())
	for _, path := range []string{j.store.statePath(), j.store.journalPath()} {
		_ = os.Remove(stagedPath(path))
	}
	j.unstage()
}

// unstage removes what was about to be renamed.
func (j *job) unstage() {
	for _, p := range j.places {
		_ = os.Remove(stagedPath(p.path))
	}
}
