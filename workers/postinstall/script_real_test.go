package postinstall_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
)

// script is one run of a script of the templates by the real bash, beside stand-ins for the programs that would touch a machine.
type script struct {
	dir string // has bin/ and job/
	cmd *exec.Cmd
	out bytes.Buffer
}

func newScript(t *testing.T, name string, programs, files map[string]string) *script {
	t.Helper()
	s := &script{dir: t.TempDir()}
	for _, dir := range []string{"bin", "job/files"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for program, text := range programs {
		text = "#!/bin/bash\nset -euo pipefail\necho \"" + program + " $*\" >>'" + filepath.Join(s.dir, "calls") + "'\n" + text + "\n"
		if err := os.WriteFile(filepath.Join(s.dir, "bin", program), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, "job", file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.cmd = exec.CommandContext(t.Context(), "/bin/bash", filepath.Join(templates, name))
	s.cmd.Env = []string{"PATH=" + filepath.Join(s.dir, "bin") + ":/usr/bin:/bin", "SLIPWAY_JOB=" + filepath.Join(s.dir, "job")}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	return s
}

func (s *script) run(t *testing.T) (string, int) {
	t.Helper()
	if err := s.cmd.Run(); err != nil && s.cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return s.out.String(), s.cmd.ProcessState.ExitCode()
}

func (s *script) file(name string) string {
	text, _ := os.ReadFile(filepath.Join(s.dir, name)) // absent is empty
	return string(text)
}

// What lsblk, lvs, vgs, pvs and sfdisk print of an AlmaLinux 9 of 10 GiB on a disk of 40 GiB; lsblk is of util-linux 2.37.
func TestDiskPlansLVMInRealBash(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "bash")
	const (
		lsblk = `if [[ " $* " == *" -d "* ]]; then echo 'NAME="/dev/xvda3" SIZE="41874882560"'; exit; fi
echo 'NAME="/dev/mapper/almalinux-root" TYPE="lvm" SIZE="9659482112" LOG_SEC="512"'
echo 'NAME="/dev/xvda3" TYPE="part" SIZE="9661579264" LOG_SEC="512"'
echo 'NAME="/dev/xvda" TYPE="disk" SIZE="42949672960" LOG_SEC="512"'`
		sfdisk = `if [[ $1 == --dump ]]; then
cat <<'EOT'
label: gpt
label-id: 0D2D1B4C-9A37-4C8C-8B0F-3C3B1C6F33A1
device: /dev/xvda
unit: sectors
first-lba: 34
last-lba: 20971486

/dev/xvda1 : start=        2048, size=        2048, type=21686148-6449-6E6F-744E-656564454649, uuid=1B5F6DF1-6B2C-4B8A-9C6B-0C6B8A5F1E11
/dev/xvda2 : start=        4096, size=     2097152, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=2B5F6DF1-6B2C-4B8A-9C6B-0C6B8A5F1E12
/dev/xvda3 : start=     2101248, size=    18870272, type=E6D6D379-F507-44C2-A23C-238F2A3DF928, uuid=3B5F6DF1-6B2C-4B8A-9C6B-0C6B8A5F1E13
EOT
exit; fi
cat`
	)
	programs := map[string]string{
		"findmnt": `echo "/dev/mapper/almalinux-root xfs"`, "lsblk": lsblk, "sfdisk": sfdisk,
		"lvs": `echo "  almalinux|root|linear"`, "vgs": `echo "  1|4194304|0"`, "pvs": `echo "  /dev/xvda3|9659482112|1048576|9661579264"`,
		"partx": "", "pvresize": "", "lvextend": "", "xfs_growfs": "",
	}
	s := newScript(t, "debian/disk.sh", programs, nil)
	log, code := s.run(t)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	want := []string{
		"sfdisk --no-reread --no-tell-kernel --force /dev/xvda", "partx --update --nr 3 /dev/xvda", "pvresize /dev/xvda3",
		"lvextend -l +100%FREE almalinux/root", "xfs_growfs /",
	}
	planned, run := plans(log)
	if diff := cmp.Diff([][]string{want, want}, [][]string{planned, run}); diff != "" {
		t.Errorf("(-want +planned, run):\n%s", diff)
	}
	var changed []string
	for line := range strings.Lines(s.file("calls")) {
		if line = strings.TrimSuffix(line, "\n"); !strings.Contains(line, "--no-act") && !strings.Contains(line, "--dump") &&
			!strings.HasPrefix(line, "lsblk") && !strings.HasPrefix(line, "findmnt") && !strings.Contains(line, "vs -o") && !strings.HasPrefix(line, "vgs") {
			changed = append(changed, line)
		}
	}
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("calls that change something (-want +got):\n%s", diff)
	}
	table := s.file("job/disk/table")
	if !strings.Contains(table, "/dev/xvda3 : start=2101248, size=81782784, type=E6D6D379-F507-44C2-A23C-238F2A3DF928, uuid=3B5F6DF1") || strings.Contains(table, "last-lba") ||
		!strings.Contains(log, table) {
		t.Errorf("the new table:\n%s\nlog:\n%s", table, log)
	}

	// The kernel did not take it: nobody says that the disk has grown.
	programs["lsblk"] = strings.Replace(lsblk, "41874882560", "9661579264", 1)
	if log, code := newScript(t, "debian/disk.sh", programs, nil).run(t); code != 1 || strings.Contains(log, "disk: done") {
		t.Errorf("exit code %d:\n%s", code, log)
	}
	// A tool of a plan is missing: nothing has been touched.
	delete(programs, "pvresize")
	s = newScript(t, "debian/disk.sh", programs, nil)
	if log, code := s.run(t); code != 81 || !strings.Contains(log, "the plan needs pvresize, which is not installed") || strings.Contains(s.file("calls"), "--force") {
		t.Errorf("exit code %d:\n%s", code, log)
	}
}

// The managers of packages that write their pid down, under the real bash and the real /proc.
func TestPackagesWaitForAPidInRealBash(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		family, lock, query string
		programs            map[string]string
		want                string
	}{
		{"almalinux", "/var/lib/dnf/rpmdb_lock.pid", "rpm", map[string]string{"dnf": ""}, "dnf -q -y install -- rsync\n"},
		{"opensuse", "/run/zypp.pid", "rpm", map[string]string{"zypper": "exit 102"}, "zypper --non-interactive --quiet install --no-recommends -- rsync\n"},
	} {
		t.Run(row.family, func(t *testing.T) {
			t.Parallel()
			manager, err := os.ReadFile(filepath.Join(templates, row.family, "manager.sh"))
			if err != nil {
				t.Fatal(err)
			}
			row.programs[row.query] = `[[ ${*: -1} == bash ]]`
			s := newScript(t, "debian/packages.sh", row.programs, map[string]string{"env": "GUEST_PACKAGES='bash rsync'\nGUEST_LOCK_WAIT='30'\n"})
			// Its lock lies in the test's folder, and no other of the machine's counts.
			lock := filepath.Join(s.dir, "lock")
			text := strings.Replace(string(manager), row.lock, lock, 1)
			if text == string(manager) {
				t.Fatalf("%s does not name %s", row.family, row.lock)
			}
			if err := os.WriteFile(filepath.Join(s.dir, "job/files/manager.sh"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			holder := exec.CommandContext(t.Context(), "sleep", "1000")
			if err := holder.Start(); err != nil {
				t.Fatal(err)
			}
			stop := func() { _ = holder.Process.Kill(); _ = holder.Wait() }
			defer stop()
			if err := os.WriteFile(lock, []byte(strconv.Itoa(holder.Process.Pid)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			stage := "packages: waiting, " + lock + " is held by sleep (pid " + strconv.Itoa(holder.Process.Pid) + ")\n"
			testnet.Until(t, 20*time.Second, "the stage to name the holder", func() bool { return s.file("job/stage") == stage })
			// The lock stays behind, as after a crash of whoever held it.
			stop()
			if err := s.cmd.Wait(); err != nil {
				t.Fatalf("%v:\n%s", err, s.out.String())
			}
			if !strings.HasSuffix(s.file("calls"), row.want) {
				t.Errorf("calls:\n%s\n%s", s.file("calls"), s.out.String())
			}
		})
	}
}
