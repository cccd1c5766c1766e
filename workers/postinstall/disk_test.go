package postinstall_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/sim/guest"
	"slipway/workers/postinstall"
)

// plans reads what the disk step said it would do, and what it did.
func plans(log string) (planned, run []string) {
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "disk: plan: "); ok {
			planned = append(planned, rest)
		}
		if rest, ok := strings.CutPrefix(line, "disk: run: "); ok {
			run = append(run, rest)
		}
	}
	return planned, run
}

func TestDiskPlans(t *testing.T) {
	t.Parallel()
	table := []string{"sfdisk --no-reread --no-tell-kernel --force /dev/xvda", "partx --update --nr 2 /dev/xvda"}
	grown := func(disk guest.Disk) guest.Disk { // its partition has been grown, and what is on top has not
		disk.Partitions[1].Sectors = 20*gib/512 - 4096 - 2048
		return disk
	}
	for _, row := range []struct {
		name string
		disk guest.Disk
		want []string
		left int64 // of the disk, at most
	}{
		{"partition", guest.PlainDisk(20 * gib), append(table[:2:2], "resize2fs /dev/xvda2"), 4 * mib},
		{"volume", guest.LVMDisk(20 * gib), append(table[:2:2], "pvresize /dev/xvda2", "lvextend -l +100%FREE almalinux/root", "xfs_growfs /"), 16 * mib},
		{"btrfs", btrfsDisk(20 * gib), append(table[:2:2], "btrfs filesystem resize max /"), 4 * mib},
		{"as large as its template", guest.PlainDisk(4 * gib), []string{"resize2fs /dev/xvda2"}, 4 * mib},
		{"cut off after the table", grown(guest.PlainDisk(20 * gib)), []string{"resize2fs /dev/xvda2"}, 4 * mib},
		{"cut off before the kernel knew", func() guest.Disk {
			d := guest.LVMDisk(20 * gib)
			d.Partitions[1].Kernel = d.Partitions[1].Sectors
			return grown(d)
		}(), []string{table[1], "pvresize /dev/xvda2", "lvextend -l +100%FREE almalinux/root", "xfs_growfs /"}, 16 * mib},
		{"cut off before the volume", grown(guest.LVMDisk(20 * gib)), []string{"pvresize /dev/xvda2", "lvextend -l +100%FREE almalinux/root", "xfs_growfs /"}, 16 * mib},
		{"cut off before the last", func() guest.Disk {
			d := grown(guest.LVMDisk(20 * gib))
			d.Group.PVBytes = (d.Partitions[1].Sectors*512 - mib) / (4 * mib) * (4 * mib)
			return d
		}(), []string{"lvextend -l +100%FREE almalinux/root", "xfs_growfs /"}, 16 * mib},
		{"no disk", guest.Disk{Name: "/dev/xvda", FS: "overlay"}, nil, 0},
		{"volume on a whole disk", func() guest.Disk {
			d := guest.LVMDisk(20 * gib)
			d.RootPartition, d.Partitions = 0, nil
			return d
		}(), []string{"pvresize /dev/xvda", "lvextend -l +100%FREE almalinux/root", "xfs_growfs /"}, 16 * mib},
		{"MBR beyond its reach", func() guest.Disk {
			d := guest.PlainDisk(3 << 40)
			d.Label = "dos"
			return d
		}(), append(table[:2:2], "resize2fs /dev/xvda2"), 1<<40 + 4*mib},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, newVendors(t, nil), "debian-12")
			s.guest.SetDisk(row.disk)
			s.start(t, "run-1-1")
			log := s.succeed(t)
			planned, run := plans(log)
			if diff := cmp.Diff(row.want, planned); diff != "" {
				t.Errorf("plan (-want +got):\n%s%s", diff, log)
			}
			if diff := cmp.Diff(planned, run); diff != "" {
				t.Errorf("what was run is not what was printed (-printed +run):\n%s", diff)
			}
			if strings.LastIndex(log, "disk: plan: ") > strings.Index(log, "disk: run: ") {
				t.Errorf("something ran before all was printed:\n%s", log)
			}
			disk := s.guest.Disk()
			if left := disk.Bytes - disk.FSBytes; left > row.left || disk.FSBytes < row.disk.FSBytes {
				t.Errorf("the file system has %d of %d bytes, and had %d:\n%s", disk.FSBytes, disk.Bytes, row.disk.FSBytes, log)
			}
		})
	}
}

func TestDiskRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*guest.Disk)
		want   string
	}{
		{"encrypted", func(d *guest.Disk) { d.Group, d.FS, d.Encrypted = nil, "ext4", true }, "/ is on 'crypt part disk' (/dev/mapper/luks-root /dev/xvda2 /dev/xvda)"},
		{"thin volume", func(d *guest.Disk) { d.Group.Layout = "thin,sparse" }, "the logical volume almalinux/root is thin,sparse"},
		{"group of two disks", func(d *guest.Disk) { d.Group.PVs = 2 }, "volume group almalinux has 2 physical volumes"},
		{"names with commands", func(d *guest.Disk) { d.Group.Name = "a;reboot" }, "has letters that no device has"},
		{"partition behind", func(d *guest.Disk) {
			d.Partitions = append(d.Partitions, guest.Partition{Number: 3, Start: 8386560, Sectors: 1000, Rest: " type=swap"})
		}, "/dev/xvda3 lies behind /dev/xvda2 on /dev/xvda"},
		{"table of another age", func(d *guest.Disk) { d.Label = "bsd" }, "a table of type 'bsd'"},
		{"file system", func(d *guest.Disk) { d.Group, d.FS = nil, "reiserfs" }, "/ is reiserfs"},
		{"no extents", func(d *guest.Disk) { d.Group.Extent = 0 }, "extents of no size"},
		{"no number", func(d *guest.Disk) { d.Group.PVs = -1 }, "the number of disks of almalinux is no number: '-1'"},
		{"sfdisk does not take it", func(d *guest.Disk) { d.Sfdisk = "Partition table is in use by dragons" }, "sfdisk does not take the new table"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, newVendors(t, nil), "almalinux-9")
			disk := guest.LVMDisk(20 * gib)
			row.change(&disk)
			s.guest.SetDisk(disk)
			before := fmt.Sprintf("%+v", s.guest.Disk().Partitions)
			s.start(t, "run-1-1")
			status, log := s.finish(t)
			if status.Exit != postinstall.ExitRefused || status.Stage != "disk" || !strings.Contains(log, "disk: refused: ") || !strings.Contains(log, row.want) {
				t.Errorf("exit code %d at %s:\n%s", status.Exit, status.Stage, log)
			}
			if kind, _ := postinstall.Failure(status.Exit); kind != orchestrator.Permanent {
				t.Errorf("kind %s", kind)
			}
			if _, run := plans(log); len(run) > 0 || fmt.Sprintf("%+v", s.guest.Disk().Partitions) != before {
				t.Errorf("it ran %q:\n%s", run, log)
			}
		})
	}
}
