package postinstall_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"slipway/internal/testenv"
)

// imageDisk is a disk that is a file, grown after its table was written, as a machine's is that was ordered larger than its template.
// sfdisk and the file system's tools are the real ones; findmnt, lsblk and partx, which ask a kernel that does not know the file as a
// disk, say what they would say of one.
type imageDisk struct {
	dir, image, part string
	path             string // PATH for the script
}

func newImageDisk(t *testing.T, table string, partition, before, after int64) *imageDisk {
	t.Helper()
	real := map[string]string{}
	for _, tool := range []string{"sfdisk", "mke2fs", "e2fsck", "debugfs", "resize2fs"} {
		real[tool] = testenv.Need(t, tool)
	}
	d := &imageDisk{dir: t.TempDir()}
	d.image = filepath.Join(d.dir, "disk")
	d.part = d.image + strconv.FormatInt(partition, 10)
	bin := filepath.Join(d.dir, "bin")
	for _, dir := range []string{bin, filepath.Join(d.dir, "job"), filepath.Join(d.dir, "content")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The file system of the partition lies in a file of its own, of the partition's size.
	for name, text := range map[string]string{
		"findmnt": `echo "$PART ext4"`,
		"lsblk": `size=$(stat -c %s "$IMAGE")
part=$("$SFDISK" --dump "$IMAGE" 2>/dev/null | sed -n "s|^$PART : .*size= *\([0-9]*\),.*|\1|p")
echo "NAME=\"$PART\" TYPE=\"part\" SIZE=\"$((part * 512))\" LOG-SEC=\"512\""
[[ " $* " == *" -d "* ]] || echo "NAME=\"$IMAGE\" TYPE=\"disk\" SIZE=\"$size\" LOG-SEC=\"512\""`,
		"partx": `echo "partx $*" >>"$IMAGE.calls"
part=$("$SFDISK" --dump "$IMAGE" 2>/dev/null | sed -n "s|^$PART : .*size= *\([0-9]*\),.*|\1|p")
truncate -s "$((part * 512))" "$PART"`,
		"sfdisk": `echo "sfdisk $*" >>"$IMAGE.calls"; exec "$SFDISK" "$@"`,
	} {
		script := "#!/bin/bash\nset -euo pipefail\nIMAGE='" + d.image + "' PART='" + d.part + "' SFDISK='" + real["sfdisk"] + "'\n" + text + "\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.path = bin + ":" + filepath.Dir(real["resize2fs"]) + ":/usr/sbin:/usr/bin:/sbin:/bin"

	if err := os.WriteFile(filepath.Join(d.dir, "content", "kept"), []byte("the customer's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.resize(t, d.image, before)
	d.tool(t, table, real["sfdisk"], "--quiet", d.image)
	_, size := d.extent(t, real["sfdisk"])
	d.resize(t, d.part, size*512)
	d.tool(t, "", real["mke2fs"], "-q", "-t", "ext4", "-d", filepath.Join(d.dir, "content"), d.part)
	d.resize(t, d.image, after)
	return d
}

func (d *imageDisk) resize(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func (d *imageDisk) tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// dump is the table as the real sfdisk reads it.
func (d *imageDisk) dump(t *testing.T) string {
	t.Helper()
	return d.tool(t, "", testenv.Need(t, "sfdisk"), "--dump", d.image)
}

// extent is where the partition begins and how long it is, in sectors.
func (d *imageDisk) extent(t *testing.T, sfdisk string) (start, size int64) {
	t.Helper()
	dump := d.tool(t, "", sfdisk, "--dump", d.image)
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(d.part) + ` : start= *(\d+), size= *(\d+)`).FindStringSubmatch(dump)
	if m == nil {
		t.Fatalf("no %s in\n%s", d.part, dump)
	}
	start, _ = strconv.ParseInt(m[1], 10, 64)
	size, _ = strconv.ParseInt(m[2], 10, 64)
	return start, size
}

// grow runs the step.
func (d *imageDisk) grow(t *testing.T) (log string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/bash", filepath.Join(templates, "debian", "disk.sh"))
	cmd.Env = []string{"PATH=" + d.path, "SLIPWAY_JOB=" + filepath.Join(d.dir, "job")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (d *imageDisk) calls(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.image + ".calls")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

const mib = int64(1 << 20)

func TestDiskGrowsOnARealTable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, table string
		partition   int64
		lastEnd     func(sectors int64) int64
	}{
		{"gpt", "label: gpt\nstart=1MiB,size=1MiB,type=21686148-6449-6E6F-744E-656564454649,name=\"BIOS boot\"\nsize=40MiB,name=root\n", 2, func(n int64) int64 { return n - 33 }},
		{"gpt out of order", "label: gpt\n1: start=20MiB,size=40MiB\n2: start=1MiB,size=10MiB\n", 1, func(n int64) int64 { return n - 33 }},
		{"dos", "label: dos\nstart=1MiB,size=40MiB,type=83,bootable\n", 1, func(n int64) int64 { return n }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newImageDisk(t, row.table, row.partition, 64*mib, 200*mib)
			sfdisk := testenv.Need(t, "sfdisk")
			before := d.dump(t)
			start, _ := d.extent(t, sfdisk)

			log, code := d.grow(t)
			if code != 0 {
				t.Fatalf("exit code %d:\n%s", code, log)
			}
			newStart, size := d.extent(t, sfdisk)
			want := row.lastEnd(200*mib/512)/2048*2048 - start
			if newStart != start || size != want {
				t.Errorf("the partition is at %d with %d sectors, want %d and %d:\n%s", newStart, size, start, want, log)
			}
			// Nothing but that one number is another one.
			strip := func(dump string) string {
				dump = regexp.MustCompile(`(?m)^last-lba:.*\n`).ReplaceAllString(dump, "")
				own := regexp.MustCompile(`(?m)^(` + regexp.QuoteMeta(d.part) + ` : start= *\d+, size=) *\d+`)
				return own.ReplaceAllString(dump, "${1}X")
			}
			if after := d.dump(t); strip(noise(after)) != strip(noise(before)) {
				t.Errorf("the table before\n%s\nand after\n%s", before, after)
			}
			d.tool(t, "", sfdisk, "--verify", "--quiet", d.image)
			d.tool(t, "", testenv.Need(t, "e2fsck"), "-f", "-n", d.part)
			if text := d.tool(t, "", testenv.Need(t, "debugfs"), "-R", "cat /kept", d.part); !strings.Contains(text, "the customer's\n") {
				t.Errorf("the file in it reads %q", text)
			}
			blocks := regexp.MustCompile(`(?m)^Block count: +(\d+)$`).FindStringSubmatch(d.tool(t, "", testenv.Need(t, "debugfs"), "-R", "show_super_stats -h", d.part))
			sizes := regexp.MustCompile(`(?m)^Block size: +(\d+)$`).FindStringSubmatch(d.tool(t, "", testenv.Need(t, "debugfs"), "-R", "show_super_stats -h", d.part))
			if blocks == nil || sizes == nil {
				t.Fatal("debugfs does not say how large the file system is")
			}
			count, _ := strconv.ParseInt(blocks[1], 10, 64)
			block, _ := strconv.ParseInt(sizes[1], 10, 64)
			if count*block != want*512 {
				t.Errorf("the file system has %d bytes, want %d", count*block, want*512)
			}

			// What was run is what was printed, in that order.
			var printed, run []string
			for line := range strings.Lines(log) {
				if rest, ok := strings.CutPrefix(line, "disk: plan: "); ok {
					printed = append(printed, rest)
				}
				if rest, ok := strings.CutPrefix(line, "disk: run: "); ok {
					run = append(run, rest)
				}
			}
			wantPlan := []string{
				"sfdisk --no-reread --no-tell-kernel --force " + d.image + "\n", fmt.Sprintf("partx --update --nr %d %s\n", row.partition, d.image), "resize2fs " + d.part + "\n",
			}
			if fmt.Sprint(printed) != fmt.Sprint(wantPlan) || fmt.Sprint(run) != fmt.Sprint(wantPlan) {
				t.Errorf("printed %q, run %q", printed, run)
			}
			if plan, last := strings.LastIndex(log, "disk: plan: "), strings.Index(log, "disk: run: "); plan > last {
				t.Error("something was run before all was printed")
			}

			// Once more: nothing is left to do, and the table is not written again.
			grown, calls := d.dump(t), d.calls(t)
			log, code = d.grow(t)
			if code != 0 || d.dump(t) != grown || !strings.Contains(log, "reaches to the end of "+d.image+" already") {
				t.Errorf("the second time, exit code %d:\n%s", code, log)
			}
			if more := strings.TrimPrefix(d.calls(t), calls); strings.Contains(more, "--force") {
				t.Errorf("the second time it called\n%s", more)
			}
		})
	}
}

// noise takes out what sfdisk says on stderr about a table that is shorter than its disk.
func noise(dump string) string {
	return regexp.MustCompile(`(?m)(GPT PMBR size mismatch .*|The backup GPT table is not on the end of the device\.)\n?`).ReplaceAllString(dump, "")
}

func TestDiskRefusesARealTable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, table string
		partition   int64
		want        string
	}{
		{"swap behind root", "label: dos\nstart=1MiB,size=40MiB\nsize=8MiB,type=82\n", 1, "disk2 lies behind "},
		{"logical", "label: dos\nstart=1MiB,size=50MiB,type=5\nstart=2MiB,size=40MiB\n", 5, "lies inside of "},
		{"table of another age", "label: sun\nstart=0,size=40MiB\n", 1, "a table of type 'sun'"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newImageDisk(t, row.table, row.partition, 64*mib, 200*mib)
			before, err := os.ReadFile(d.image)
			if err != nil {
				t.Fatal(err)
			}
			log, code := d.grow(t)
			if code != 81 || !strings.Contains(log, "disk: refused: ") || !strings.Contains(log, row.want) {
				t.Errorf("exit code %d:\n%s", code, log)
			}
			after, err := os.ReadFile(d.image)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(before, after) || strings.Contains(d.calls(t), "--force") {
				t.Errorf("the disk was touched:\n%s", d.calls(t))
			}
		})
	}
}
