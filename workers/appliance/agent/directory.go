package agent

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
)

const serviceNone = "none"

// directory is a unit without its service: what the agent does to files stays, what it would do to a process goes. Its candidate passes
// when the tool that should judge it is not installed, and the answer says so.
type directory struct{ Unit }

func (directory) Reload(context.Context, Change) error { return nil }

// Prove has nothing to add: the agent compares the files' hash itself.
func (directory) Prove(context.Context) error { return nil }

func (d directory) CountRows(files map[string][]byte) int {
	if counter, ok := d.Unit.(RowCounter); ok {
		return counter.CountRows(files)
	}
	return -1
}

// toolMissing is true of a Check that found no tool.
func toolMissing(err error) bool {
	var fault *Fault
	return err != nil && !errors.As(err, &fault) && (errors.Is(err, exec.ErrNotFound) || isExecMissing(err))
}

// isExecMissing is true when a program given by its path could not be started for want of it.
func isExecMissing(err error) bool {
	var pathErr *fs.PathError
	return errors.As(err, &pathErr) && pathErr.Op == "fork/exec" && errors.Is(err, fs.ErrNotExist)
}
