package xvp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"slipway/orchestrator"
)

// start runs the start command and waits until xvp listens. xvp goes into the background before it reads its configuration, so the command's
// success says nothing yet.
func (u *Unit) start(ctx context.Context, ports []uint16) (*process, error) {
	cmd := exec.CommandContext(ctx, u.cfg.Start[0], u.cfg.Start[1:]...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a daemon may keep the pipe open
	var output excerpt
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("start xvp by %s: %w%s", u.cfg.Start[0], err, output.text())
	}
	var running *process
	err := poll(ctx, func() error {
		var err error
		if running, err = u.process(); err == nil && running == nil {
			err = fmt.Errorf("%s names no live process of %s; xvp's log says why", u.cfg.PIDFile, u.cfg.Program)
		}
		if err != nil {
			return err
		}
		return running.listening(ports, nil)
	})
	if err != nil {
		return nil, fmt.Errorf("xvp was started and does not listen: %w", err)
	}
	return running, nil
}

// reread has xvp read its files again. It closes and binds all its ports for that, which is how the end is known: not one socket is the same.
func (u *Unit) reread(ctx context.Context, running *process, ports []uint16) error {
	before, err := running.sockets()
	if err != nil {
		return err
	}
	if err := running.signal(syscall.SIGUSR1); err != nil {
		return err
	}
	if err := running.await(ctx, ports, before); err != nil {
		return fmt.Errorf("xvp was told to read its files again: %w", err)
	}
	return nil
}

// stop ends xvp, and with it every session.
func (u *Unit) stop(ctx context.Context, running *process) error {
	if err := os.Remove(u.cfg.Loaded); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if running == nil {
		return nil
	}
	if err := running.signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return poll(ctx, func() error {
		if running.alive() {
			return fmt.Errorf("xvp, process %d, goes on after SIGTERM", running.pid)
		}
		return nil
	})
}

// loaded is what the Loaded file says: this process was made to read that text, and had bound its ports anew after it.
type loaded struct {
	Boot   string `json:"boot"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"`
	SHA256 string `json:"sha256"`
}

func (u *Unit) remember(running *process, sum string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	text, err := json.Marshal(loaded{Boot: boot, PID: running.pid, Start: running.start, SHA256: sum})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(u.cfg.Loaded), filepath.Base(u.cfg.Loaded)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), u.cfg.Loaded)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// recall fails when the process was not made to read this text: the agent ended between the swap and the reload, somebody edited the main
// file, or xvp was started by another hand. The cure is a reload in every case.
func (u *Unit) recall(running *process, sum string) error {
	text, err := os.ReadFile(u.cfg.Loaded)
	if err != nil {
		return fmt.Errorf("nothing tells what xvp has read: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	var got loaded
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("%s: %w", u.cfg.Loaded, err)
	}
	if got != (loaded{Boot: boot, PID: running.pid, Start: running.start, SHA256: sum}) {
		return fmt.Errorf("xvp, process %d, was not made to read what lies in its files now", running.pid)
	}
	return nil
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// poll asks until fn has no objection or the context ends, and then says what the objection was.
func poll(ctx context.Context, fn func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		var final *ended
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// excerpt keeps the first 2 kB of a command's output.
type excerpt struct{ b bytes.Buffer }

func (e *excerpt) Write(p []byte) (int, error) {
	e.b.Write(p[:min(len(p), 2048-e.b.Len())])
	return len(p), nil
}

func (e *excerpt) text() string {
	text := orchestrator.OneLine(e.b.String(), 2048)
	if text == "" {
		return ""
	}
	return ": " + text
}
