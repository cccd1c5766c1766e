package iptables

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/orchestrator"
)

// The revert timer is a record in UnitConfig.State and a process that waits. The record is written before the first rule changes and
// removed by Prove; while it is there the running rules are unproven, or (once Reverted) the old ones again.
type revertRecord struct {
	ID       string        `json:"id"` // of this arming; a watcher of an earlier one leaves it alone
	ArmedAt  time.Time     `json:"armed_at"`
	After    time.Duration `json:"after"`    // nanoseconds
	Reverted bool          `json:"reverted"` // the old rules are live again
	Old      string        `json:"old"`      // iptables-save before the change
}

const (
	recordFile  = "revert.json"
	lockFile    = "iptables.lock" // not "lock": the agent has one of that name in its own folders
	watcherLog  = "revert.log"
	watchPoll   = 100 * time.Millisecond
	lockPoll    = 20 * time.Millisecond
	lockWait    = time.Minute
	armWait     = 10 * time.Second // for the watcher to say that it waits
	revertTries = 10               // a second apart
)

// arm writes the record and starts a watcher. Rules that were never proven are nothing to go back to: while a record is there its old
// rules are kept, and only the time begins anew.
func (u *Unit) arm(ctx context.Context, old string) error {
	if u.cfg.RevertAfter < 0 {
		return nil
	}
	now := time.Now()
	record := revertRecord{ID: strconv.FormatInt(now.UnixNano(), 36) + "-" + strconv.Itoa(os.Getpid()), ArmedAt: now.UTC(), After: u.cfg.RevertAfter, Old: old}
	if before, err := u.record(); err != nil {
		return err
	} else if before != nil {
		record.Old = before.Old
	}
	if err := u.writeRecord(record); err != nil {
		return err
	}
	if err := u.startWatcher(ctx); err != nil {
		return fmt.Errorf("revert timer: %w", err)
	}
	return nil
}

// startWatcher starts the process and waits until it says that it waits. The process is left behind on purpose.
func (u *Unit) startWatcher(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(u.cfg.State, watcherLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(u.cfg.Watcher[0], u.cfg.Watcher[1:]...)
	cmd.Env = environment()
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.ExtraFiles = []*os.File{readyChild} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = readyChild.Close()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(armWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("%s (pid %d) did not say that it waits: %w; see %s", u.cfg.Watcher[0], cmd.Process.Pid, err, log.Name())
	}
	return cmd.Process.Release()
}

// Watch is the watcher's whole life: it waits until the change is proven, and puts the old rules back when that takes too long. It
// writes one byte to ready, and closes it, when it begins to wait. nil means that the change was proven, superseded, or taken back.
func (u *Unit) Watch(ctx context.Context, ready io.WriteCloser) error {
	const op = "iptables.Watch"
	record, err := u.record()
	if err == nil && record == nil {
		err = errors.New("no change waits for its proof")
	}
	if err != nil {
		_ = ready.Close() // whoever started us sees that nothing was said
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	timer := time.NewTimer(record.After)
	defer timer.Stop()
	_, err = ready.Write([]byte{'.'})
	if err = errors.Join(err, ready.Close()); err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return orchestrator.E(op, orchestrator.Canceled, ctx.Err())
		case <-timer.C:
			waiting = false
		case <-poll.C:
			if now, err := u.record(); err == nil && (now == nil || now.ID != record.ID) {
				return nil
			}
		}
	}
	for try := 1; ; try++ {
		err := u.revert(ctx, record.ID)
		if err == nil || try == revertTries {
			return orchestrator.E(op, orchestrator.Transient, err)
		}
		u.cfg.Log.ErrorContext(ctx, "the old firewall rules could not be restored", "try", try, "error", err)
		select {
		case <-ctx.Done():
			return orchestrator.E(op, orchestrator.Canceled, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// revert puts the record's old rules back, if it is still the one that was waited for.
func (u *Unit) revert(ctx context.Context, id string) error {
	release, err := u.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	record, err := u.record()
	if err != nil || record == nil || record.ID != id {
		return err
	}
	if err := u.become(ctx, parseSave(record.Old)); err != nil {
		return err
	}
	u.cfg.Log.WarnContext(ctx, "a change of the firewall was not proven in time, the rules before it are back", "after", record.After)
	record.Reverted = true
	return u.writeRecord(*record)
}

// disarm removes the record, by which the watcher ends.
func (u *Unit) disarm() error {
	err := os.Remove(filepath.Join(u.cfg.State, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(u.cfg.State))
}

// record reads the timer; nil when none is armed.
func (u *Unit) record() (*revertRecord, error) {
	text, err := os.ReadFile(filepath.Join(u.cfg.State, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var record revertRecord
	if err := json.Unmarshal(text, &record); err != nil {
		return nil, fmt.Errorf("%s: %w", recordFile, err)
	}
	return &record, nil
}

// writeRecord replaces the record in one step that survives a loss of power.
func (u *Unit) writeRecord(record revertRecord) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	path := filepath.Join(u.cfg.State, recordFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(u.cfg.State)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock keeps the agent, the watcher and Boot apart. The kernel lets go of it when its holder dies.
func (u *Unit) lock(ctx context.Context) (release func(), err error) {
	if err := os.MkdirAll(u.cfg.State, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(u.cfg.State, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, fmt.Errorf("%s is held by another process for longer than %s", f.Name(), lockWait))
	defer cancel()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-poll.C:
		}
	}
}
