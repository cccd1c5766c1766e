package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"slipway/workers/appliance/apply"
)

// Names of what we put beside a target. They start with a dot: directories of configuration are often read by pattern.
const (
	stagedPrefix    = ".slipway-new-"
	candidatePrefix = ".slipway-candidate-"
)

// place is one target with the name that requests use for it.
type place struct {
	name string
	path string
	mode fs.FileMode
}

// held is what a place contains.
type held struct {
	exists   bool
	content  []byte
	mode     fs.FileMode
	uid, gid int
}

// errIrregular is a target that is a symbolic link, a directory or a device. A link is not followed: renaming over it would cut it off
// from the file that its owner edits, and following it would write where the configuration does not say.
var errIrregular = errors.New("is not a regular file")

// look reads a place. A missing file is not an error, a missing directory is.
func look(path string) (held, error) {
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return held{}, fmt.Errorf("directory of %s: %w", path, cmpErr(err, fs.ErrNotExist))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return held{}, nil
	case errors.Is(err, syscall.ELOOP):
		return held{}, fmt.Errorf("%s %w: name the file itself in the agent's configuration", path, errIrregular)
	case err != nil:
		return held{}, err
	}
	defer f.Close() //nolint:errcheck // read-only
	info, err := f.Stat()
	if err != nil {
		return held{}, err
	}
	if !info.Mode().IsRegular() {
		return held{}, fmt.Errorf("%s %w", path, errIrregular)
	}
	content, err := io.ReadAll(io.LimitReader(f, MaxRequest+1))
	if err != nil {
		return held{}, err
	}
	if len(content) > MaxRequest {
		return held{}, fmt.Errorf("%s holds more than %d bytes", path, MaxRequest)
	}
	h := held{exists: true, content: content, mode: info.Mode().Perm(), uid: -1, gid: -1}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		h.uid, h.gid = int(stat.Uid), int(stat.Gid)
	}
	return h, nil
}

// stage writes what will be renamed to path, beside it and on disk. uid and gid of -1 leave the owner alone.
func stage(path string, content []byte, mode fs.FileMode, uid, gid int) (err error) {
	staged := stagedPath(path)
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil { // after Chown, and whatever the umask says
		return err
	}
	return f.Sync()
}

func stagedPath(path string) string {
	return filepath.Join(filepath.Dir(path), stagedPrefix+filepath.Base(path))
}

// writeFile replaces a file of our own: whole or not at all, on disk when it returns.
func writeFile(path string, content []byte) error {
	if err := stage(path, content, 0o600, -1, -1); err != nil {
		return err
	}
	if err := os.Rename(stagedPath(path), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return err
}

// removeFile makes sure that there is no such file, also after a power cut.
func removeFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// liveSum is the Sum of what lies in the places, "" when one of them is missing or has another mode than it should.
func liveSum(places []place) (string, map[string][]byte, error) {
	var files []apply.File
	contents := map[string][]byte{}
	for _, p := range places {
		h, err := look(p.path)
		if err != nil {
			return "", nil, err
		}
		if h.exists {
			contents[p.name] = h.content
		}
		if h.exists && h.mode == p.mode {
			files = append(files, apply.File{Name: p.name, Content: string(h.content)})
		}
	}
	if len(files) < len(places) {
		return "", contents, nil
	}
	return apply.Sum(files), contents, nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
