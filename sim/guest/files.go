package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

func cat(v *invocation) int {
	_, names := operands(v.args)
	if len(names) == 0 {
		if v.stdin != nil {
			_, _ = io.Copy(v.stdout, v.stdin)
		}
		return 0
	}
	for _, name := range names {
		text, err := v.disk().ReadFile(v.path(name))
		if err != nil {
			return v.fail(1, "%s: %v", name, cause(err))
		}
		if _, err := v.stdout.Write(text); err != nil {
			return v.failWith(err)
		}
	}
	return 0
}

// head is `head -c N`.
func head(v *invocation) int {
	if len(v.args) != 2 || v.args[0] != "-c" {
		return v.fail(1, "only -c N is simulated")
	}
	n, err := strconv.ParseInt(v.args[1], 10, 64)
	if err != nil || n < 0 {
		return v.fail(1, "invalid number of bytes: %q", v.args[1])
	}
	if v.stdin != nil {
		_, _ = io.CopyN(v.stdout, v.stdin, n)
	}
	return 0
}

// tail is `tail -c +N FILE`.
func tail(v *invocation) int {
	if len(v.args) != 3 || v.args[0] != "-c" || !strings.HasPrefix(v.args[1], "+") {
		return v.fail(1, "only -c +N FILE is simulated")
	}
	n, err := strconv.ParseInt(v.args[1][1:], 10, 64)
	if err != nil || n < 1 {
		return v.fail(1, "invalid number of bytes: %q", v.args[1])
	}
	f, err := v.disk().Open(v.path(v.args[2]))
	if err != nil {
		return v.fail(1, "%s: %v", v.args[2], cause(err))
	}
	defer f.Close()
	if _, err := f.Seek(n-1, io.SeekStart); err != nil {
		return v.failWith(err)
	}
	if _, err := io.Copy(v.stdout, f); err != nil {
		return v.failWith(err)
	}
	return 0
}

func mkdir(v *invocation) int {
	options, names := operands(v.args)
	for _, name := range names {
		var err error
		if has(options, "p") {
			err = v.disk().MkdirAll(v.path(name), 0o755)
		} else {
			err = v.disk().Mkdir(v.path(name), 0o755)
		}
		if err != nil {
			return v.fail(1, "cannot create directory '%s': %v", name, cause(err))
		}
	}
	return 0
}

func rm(v *invocation) int {
	options, names := operands(v.args)
	code := 0
	for _, name := range names {
		var err error
		if has(options, "r") {
			err = v.disk().RemoveAll(v.path(name))
		} else {
			err = v.disk().Remove(v.path(name))
		}
		if err != nil && !(has(options, "f") && errors.Is(err, fs.ErrNotExist)) {
			code = v.fail(1, "cannot remove '%s': %v", name, cause(err))
		}
	}
	return code
}

// mv renames; without -T into a folder that is there.
func mv(v *invocation) int {
	options, names := operands(v.args)
	if len(names) != 2 {
		return v.fail(1, "only two operands are simulated")
	}
	from, to := v.path(names[0]), v.path(names[1])
	if info, err := v.disk().Stat(to); err == nil && info.IsDir() && !has(options, "T") {
		to = path.Join(to, path.Base(from))
	}
	if err := v.disk().Rename(from, to); err != nil {
		return v.fail(1, "cannot move '%s' to '%s': %v", names[0], names[1], linkCause(err))
	}
	return 0
}

// mktemp makes an empty file whose name ends in something of its own where the template has XXXXXX.
func mktemp(v *invocation) int {
	_, names := operands(v.args)
	if len(names) != 1 || !strings.HasSuffix(names[0], "XXXXXX") {
		return v.fail(1, "only FILE.XXXXXX is simulated")
	}
	name := fmt.Sprintf("%s%06d", strings.TrimSuffix(names[0], "XXXXXX"), v.pid%1000000)
	f, err := v.disk().OpenFile(v.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return v.fail(1, "failed to create '%s': %v", name, cause(err))
	}
	if err := f.Close(); err != nil {
		return v.failWith(err)
	}
	fmt.Fprintln(v.stdout, name)
	return 0
}

// ln makes a hard link; it fails when the name is taken.
func ln(v *invocation) int {
	options, names := operands(v.args)
	if len(names) != 2 || len(options) > 0 {
		return v.fail(1, "only hard links are simulated")
	}
	if err := v.disk().Link(v.path(names[0]), v.path(names[1])); err != nil {
		return v.fail(1, "failed to create hard link '%s': %v", names[1], linkCause(err))
	}
	return 0
}

func linkCause(err error) error {
	var wrapped *os.LinkError
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return cause(err)
}

// readlink prints where links lead; one that is none is left out and fails the call.
func readlink(v *invocation) int {
	_, names := operands(v.args)
	if len(names) == 0 {
		return v.fail(1, "missing operand")
	}
	code := 0
	for _, name := range names {
		target := dpkgLock
		var err error
		if strings.HasPrefix(name, "/proc/") {
			_, err = v.procStat(name)
		} else {
			target, err = v.disk().Readlink(v.path(name))
		}
		if err != nil {
			code = 1
			continue
		}
		_, _ = io.WriteString(v.stdout, target+"\n")
	}
	return code
}

// grep is `grep -qxF -e LINE -- FILE`.
func grep(v *invocation) int {
	if len(v.args) != 5 || v.args[0] != "-qxF" || v.args[1] != "-e" || v.args[3] != "--" {
		return v.fail(exitMisuse, "only -qxF -e LINE -- FILE is simulated")
	}
	text, err := v.disk().ReadFile(v.path(v.args[4]))
	if err != nil {
		return v.fail(exitMisuse, "%s: %v", v.args[4], cause(err))
	}
	if slices.Contains(strings.Split(string(text), "\n"), v.args[2]) {
		return 0
	}
	return 1
}

// maxUnpacked bounds what one archive may hold.
const maxUnpacked = 64 << 20

// untar is `tar -x -f - -C DIR`.
func untar(v *invocation) int {
	if !slices.Equal(v.args[:min(4, len(v.args))], []string{"-x", "-f", "-", "-C"}) || len(v.args) != 5 || v.stdin == nil {
		return v.fail(exitMisuse, "only -x -f - -C DIR is simulated")
	}
	r := tar.NewReader(io.LimitReader(v.stdin, maxUnpacked))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			return v.fail(exitMisuse, "Unexpected EOF in archive: %v", err)
		}
		name := path.Join(v.path(v.args[4]), path.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = v.disk().MkdirAll(name, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			var text bytes.Buffer
			if _, err = io.Copy(&text, r); err == nil {
				err = v.disk().WriteFile(name, text.Bytes(), h.FileInfo().Mode().Perm())
			}
		default:
			return v.fail(exitMisuse, "%s: only files and folders are simulated", h.Name)
		}
		if err != nil {
			return v.fail(exitMisuse, "%s: %v", h.Name, cause(err))
		}
	}
}
