package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// live is a state that was proven.
type live struct {
	Generation int64        `json:"generation"`
	SHA256     string       `json:"sha256"`
	Rows       int          `json:"rows"`
	Cut        []netip.Addr `json:"cut,omitempty"` // connections that were ended with it
}

// state is what an agent knows of one unit between applies.
type state struct {
	Fence int64 `json:"fence"` // the highest seen
	Live  live  `json:"live"`
}

// journal exists from before the first rename until the new state is recorded or the old one is proven again.
type journal struct {
	Next live    `json:"next"`
	Old  []saved `json:"old"`
}

// saved is what lay in one target.
type saved struct {
	Path   string      `json:"path"`
	Exists bool        `json:"exists"`
	SHA256 string      `json:"sha256,omitempty"` // names the file in backup/
	Mode   fs.FileMode `json:"mode,omitempty"`
	UID    int         `json:"uid"`
	GID    int         `json:"gid"`
}

// store is one unit's directory.
type store struct{ dir string }

func (s store) statePath() string            { return filepath.Join(s.dir, "state.json") }
func (s store) journalPath() string          { return filepath.Join(s.dir, "journal.json") }
func (s store) backupPath(sum string) string { return filepath.Join(s.dir, "backup", sum) }

func (s store) prepare() error { return os.MkdirAll(filepath.Join(s.dir, "backup"), 0o700) }

func (s store) loadState() (state, error) {
	var st state
	_, err := readJSON(s.statePath(), &st)
	return st, err
}

func (s store) saveState(st state) error { return writeJSON(s.statePath(), st) }

// loadJournal returns nil when no apply was interrupted.
func (s store) loadJournal() (*journal, error) {
	var j journal
	found, err := readJSON(s.journalPath(), &j)
	if err != nil || !found {
		return nil, err
	}
	return &j, nil
}

func (s store) saveJournal(j journal) error { return writeJSON(s.journalPath(), j) }

func (s store) dropJournal() error { return removeFile(s.journalPath()) }

// keep saves a content under its sum; the journal that names it is written afterwards.
func (s store) keep(content []byte) (string, error) {
	sum := digest(content)
	return sum, writeFile(s.backupPath(sum), content)
}

func (s store) kept(sum string) ([]byte, error) {
	content, err := os.ReadFile(s.backupPath(sum))
	if err != nil {
		return nil, err
	}
	if digest(content) != sum {
		return nil, fmt.Errorf("backup %s is damaged", s.backupPath(sum))
	}
	return content, nil
}

// forgetBackups removes what no journal needs, save the contents that were replaced last: an operator may want them.
func (s store) forgetBackups(last *journal) error {
	wanted := map[string]bool{}
	for _, o := range last.Old {
		wanted[o.SHA256] = true
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "backup"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !wanted[entry.Name()] {
			if err := os.Remove(filepath.Join(s.dir, "backup", entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func readJSON(path string, into any) (found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}
