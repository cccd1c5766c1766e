// Package templates carries the texts that slipway renders: configuration of dhcpd, iptables and xvp, and the post-install scripts.
// They are in the binary, and a directory of the operator's overrides them file by file.
package templates

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// FS holds the built-in files, by their paths below this folder ("dhcp/isc/hosts.conf.tmpl").
//
//go:embed all:dhcp all:firewall all:console all:postinstall
var FS embed.FS

// Open gives the built-in files, each replaced by the one of the same path below dir where there is one; a file that only dir has is
// there too. An empty dir gives the built-in files alone. A dir that cannot be read fails every Open, for a mistyped path must not
// quietly mean the built-in files. The result may be used concurrently.
func Open(dir string) fs.FS {
	if dir == "" {
		return FS
	}
	return overlay{dir: dir, over: os.DirFS(dir)}
}

type overlay struct {
	dir  string
	over fs.FS
}

func (o overlay) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if err := o.usable(); err != nil {
		return nil, err
	}
	f, err := o.over.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return FS.Open(name)
	}
	return f, err
}

// ReadDir lists both, sorted by name.
func (o overlay) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	over, overErr := fs.ReadDir(o.over, name)
	if overErr != nil && !errors.Is(overErr, fs.ErrNotExist) {
		return nil, overErr
	}
	built, builtErr := FS.ReadDir(name)
	if overErr != nil && builtErr != nil {
		return nil, builtErr
	}
	for _, entry := range built {
		if !slices.ContainsFunc(over, func(e fs.DirEntry) bool { return e.Name() == entry.Name() }) {
			over = append(over, entry)
		}
	}
	slices.SortFunc(over, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return over, nil
}

func (o overlay) usable() error {
	info, err := os.Stat(o.dir)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err != nil {
		return fmt.Errorf("templates directory %s: %w", o.dir, err)
	}
	return nil
}
