package qemu

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The parts of a simulator's own folder.
const (
	folderPrefix = "slipway-guests-"
	folderOwner  = "owner" // locked by the simulator as long as it lives
	folderDisks  = "disks"
)

// NewDir makes an empty folder for Config.Dir inside of parent, and removes those that simulators of the same account were killed over; one
// that cannot be removed is logged. remove takes the new one away.
//
// Whether a simulator lives is told by a lock that the kernel lets go of with its process: a number of a process would say nothing in another
// pid namespace, or after a restart of the machine. A folder without the lock's file is left alone.
func NewDir(parent string, log *slog.Logger) (dir string, remove func() error, err error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), folderPrefix) {
			continue
		}
		folder := filepath.Join(parent, e.Name())
		switch gone, err := removeOrphan(folder); {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			log.Warn("the folder of a simulator that was killed cannot be removed", "folder", folder, "error", err)
		case gone:
			log.Info("removed the folder of a simulator that was killed", "folder", folder)
		}
	}
	begun, err := os.MkdirTemp(parent, "."+folderPrefix)
	if err != nil {
		return "", nil, err
	}
	folder := filepath.Join(parent, strings.TrimPrefix(filepath.Base(begun), "."))
	lock, err := os.OpenFile(filepath.Join(begun, folderOwner), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(begun))
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.Mkdir(filepath.Join(begun, folderDisks), 0o700)
	}
	if err == nil {
		err = os.Rename(begun, folder) // it is not looked at by others before it has its name, and so its lock
	}
	if err != nil {
		return "", nil, errors.Join(err, lock.Close(), os.RemoveAll(begun))
	}
	return filepath.Join(folder, folderDisks), func() error { return errors.Join(os.RemoveAll(folder), lock.Close()) }, nil
}

// removeOrphan removes a folder whose simulator is gone.
func removeOrphan(folder string) (gone bool, err error) {
	owner := filepath.Join(folder, folderOwner)
	for path, kind := range map[string]uint32{folder: unix.S_IFDIR, owner: unix.S_IFREG} {
		var is unix.Stat_t
		if err := unix.Lstat(path, &is); err != nil {
			return false, err
		}
		if is.Mode&unix.S_IFMT != kind || int(is.Uid) != os.Geteuid() {
			return false, nil // another account's, or none of ours
		}
	}
	lock, err := os.OpenFile(owner, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil // it lives
	}
	if err != nil {
		return false, err
	}
	return true, os.RemoveAll(folder)
}
