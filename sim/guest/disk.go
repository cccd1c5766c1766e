package guest

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	sector = 512
	mib    = int64(1) << 20
	gib    = int64(1) << 30
)

// Disk is the guest's disk, its table and what lies on it. Sectors are of 512 bytes.
type Disk struct {
	Name       string // "/dev/xvda"
	Bytes      int64
	Label      string // of the table: "gpt" or "dos"
	Partitions []Partition
	Group      *VolumeGroup // nil: / is right on the partition
	// RootPartition is the number of the partition that / is on, directly or by its volume group; 0 is the disk itself.
	RootPartition int
	Encrypted     bool   // one more layer below /
	Sfdisk        string // what sfdisk says to a new table that it does not take; "" takes it
	FS            string // "ext4", "xfs", "btrfs"; "overlay" is a guest without a disk
	FSBytes       int64
}

// Partition is a line of the table.
type Partition struct {
	Number         int
	Start, Sectors int64
	Rest           string // what else its line has
	Kernel         int64  // sectors, as the kernel has them; 0 is as the table has them
}

// VolumeGroup is a group of LVM on the root partition, with the logical volume that / is on.
type VolumeGroup struct {
	Name, Volume                    string
	Layout                          string // of the volume; "linear"
	Extent, Start, PVBytes, LVBytes int64
	PVs                             int
}

// PlainDisk is a disk of so many bytes with the table of a template of 4 GiB: / is the last partition.
func PlainDisk(bytes int64) Disk {
	size := 4*gib/sector - 4096 - 2048
	return Disk{
		Name: "/dev/xvda", Bytes: bytes, Label: "gpt", RootPartition: 2, FS: "ext4", FSBytes: size * sector,
		Partitions: []Partition{
			{Number: 1, Start: 2048, Sectors: 2048, Rest: " type=21686148-6449-6E6F-744E-656564454649"},
			{Number: 2, Start: 4096, Sectors: size, Rest: " type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=\"root\""},
		},
	}
}

// LVMDisk is as PlainDisk, with / on xfs on a logical volume that has all of its group.
func LVMDisk(bytes int64) Disk {
	d := PlainDisk(bytes)
	extent := 4 * mib
	pv := (d.Partitions[1].Sectors*sector - mib) / extent * extent
	d.FS, d.FSBytes = "xfs", pv
	d.Group = &VolumeGroup{Name: "almalinux", Volume: "root", Layout: "linear", Extent: extent, Start: mib, PVBytes: pv, LVBytes: pv, PVs: 1}
	return d
}

func (d Disk) clone() Disk {
	d.Partitions = slices.Clone(d.Partitions)
	if d.Group != nil {
		group := *d.Group
		d.Group = &group
	}
	return d
}

// Disk is the disk as it is now.
func (g *Guest) Disk() Disk {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.drive.clone()
}

// SetDisk puts another disk in.
func (g *Guest) SetDisk(d Disk) {
	d = d.clone()
	for i := range d.Partitions {
		if d.Partitions[i].Kernel == 0 {
			d.Partitions[i].Kernel = d.Partitions[i].Sectors
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drive = d
}

func (d *Disk) device(number int) string {
	if number == 0 {
		return d.Name
	}
	return d.Name + strconv.Itoa(number)
}

func (d *Disk) root() string {
	switch {
	case d.FS == "overlay":
		return "overlay"
	case d.Encrypted:
		return "/dev/mapper/luks-root"
	case d.Group != nil:
		return "/dev/mapper/" + d.Group.Name + "-" + d.Group.Volume
	}
	return d.device(d.RootPartition)
}

// deviceBytes is what the kernel gives to whoever opens a partition, or the disk.
func (d *Disk) deviceBytes(number int) int64 {
	for _, p := range d.Partitions {
		if p.Number == number {
			return p.Kernel * sector
		}
	}
	return d.Bytes
}

// rootBytes is how large the device below the file system is.
func (d *Disk) rootBytes() int64 {
	if d.Group != nil {
		return d.Group.LVBytes
	}
	return d.deviceBytes(d.RootPartition)
}

// diskTool runs one that may not be called twice at a time.
func diskTool(tool func(*invocation, *Disk) int) program {
	return func(v *invocation) int {
		v.guest.mu.Lock()
		defer v.guest.mu.Unlock()
		return tool(v, &v.guest.drive)
	}
}

// findmnt is `findmnt -n -r -v -o SOURCE,FSTYPE /`.
func findmnt(v *invocation, d *Disk) int {
	if !slices.Equal(v.args, []string{"-n", "-r", "-v", "-o", "SOURCE,FSTYPE", "/"}) {
		return v.fail(1, "only -n -r -v -o SOURCE,FSTYPE / is simulated")
	}
	fmt.Fprintln(v.stdout, d.root(), d.FS)
	return 0
}

// lsblk is `lsblk -P -b -p -s -o … DEVICE` from the file system down, and the same with -d for one device.
func lsblk(v *invocation, d *Disk) int {
	options, names := operands(v.args)
	if len(names) == 0 || !has(options, "P") || !has(options, "b") || !has(options, "p") {
		return v.fail(1, "only -P -b -p is simulated")
	}
	type layer struct {
		name, kind string
		bytes      int64
	}
	var layers []layer
	if d.Encrypted {
		layers = append(layers, layer{d.root(), "crypt", d.rootBytes()})
	}
	if d.Group != nil {
		layers = append(layers, layer{"/dev/mapper/" + d.Group.Name + "-" + d.Group.Volume, "lvm", d.Group.LVBytes})
	}
	if d.RootPartition > 0 {
		layers = append(layers, layer{d.device(d.RootPartition), "part", d.deviceBytes(d.RootPartition)})
	}
	layers = append(layers, layer{d.Name, "disk", d.Bytes})
	i := slices.IndexFunc(layers, func(l layer) bool { return l.name == names[len(names)-1] })
	if i < 0 {
		return v.fail(32, "%s: not a block device", names[len(names)-1])
	}
	layers = layers[i:]
	if has(options, "d") {
		layers = layers[:1]
	}
	for _, l := range layers {
		fmt.Fprintf(v.stdout, "NAME=\"%s\" TYPE=\"%s\" SIZE=\"%d\" LOG-SEC=\"%d\"\n", l.name, l.kind, l.bytes, sector)
	}
	return 0
}

var tableLine = regexp.MustCompile(`^(/[^ ]+) : start= *([0-9]+), size= *([0-9]+),(.*)$`)

// sfdisk is `sfdisk --dump DISK`, and `sfdisk [--no-act] --no-reread --no-tell-kernel --force DISK` with a dump on stdin.
func sfdisk(v *invocation, d *Disk) int {
	options, names := operands(v.args)
	if len(names) != 1 || names[0] != d.Name {
		return v.fail(1, "cannot open %q: No such file or directory", names)
	}
	if slices.Contains(options, "--dump") {
		fmt.Fprintf(v.stdout, "label: %s\nlabel-id: 0x1\ndevice: %s\nunit: sectors\n", d.Label, d.Name)
		if d.Label == "gpt" {
			fmt.Fprintf(v.stdout, "first-lba: 2048\nlast-lba: %d\n", 4*gib/sector-34)
		}
		fmt.Fprint(v.stdout, "\n")
		for _, p := range d.Partitions {
			fmt.Fprintf(v.stdout, "%s : start= %11d, size= %11d,%s\n", d.device(p.Number), p.Start, p.Sectors, p.Rest)
		}
		return 0
	}
	if !slices.Contains(options, "--force") || v.stdin == nil {
		return v.fail(1, "only --dump and --force are simulated")
	}
	text, err := io.ReadAll(io.LimitReader(v.stdin, 1<<20))
	if err != nil {
		return v.failWith(err)
	}
	if d.Sfdisk != "" {
		return v.fail(1, "%s", d.Sfdisk)
	}
	written := slices.Clone(d.Partitions)
	lines := 0
	for line := range strings.Lines(string(text)) {
		m := tableLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue
		}
		i := slices.IndexFunc(written, func(p Partition) bool { return d.device(p.Number) == m[1] })
		start, _ := strconv.ParseInt(m[2], 10, 64)
		size, _ := strconv.ParseInt(m[3], 10, 64)
		if i < 0 || (start+size)*sector > d.Bytes-33*sector {
			return v.fail(1, "%s: Failed to add partition: Numerical result out of range", m[1])
		}
		written[i].Start, written[i].Sectors, written[i].Rest = start, size, m[4]
		lines++
	}
	if lines != len(d.Partitions) {
		return v.fail(1, "a table with %d of %d partitions is not simulated", lines, len(d.Partitions))
	}
	if !slices.Contains(options, "--no-act") {
		d.Partitions = written
	}
	return 0
}

// partx is `partx --update --nr N DISK`: the kernel takes what the table says.
func partx(v *invocation, d *Disk) int {
	if len(v.args) != 4 || v.args[0] != "--update" || v.args[1] != "--nr" || v.args[3] != d.Name {
		return v.fail(1, "only --update --nr N DISK is simulated")
	}
	for i, p := range d.Partitions {
		if strconv.Itoa(p.Number) == v.args[2] {
			d.Partitions[i].Kernel = p.Sectors
			return 0
		}
	}
	return v.fail(1, "%s: no partition %s", d.Name, v.args[2])
}

// growFS is resize2fs, xfs_growfs and btrfs: the file system takes its whole device.
func growFS(v *invocation, d *Disk) int {
	wants := map[string]string{"resize2fs": "ext4", "xfs_growfs": "xfs", "btrfs": "btrfs"}
	if wants[v.name] != d.FS {
		return v.fail(1, "/ is %s", d.FS)
	}
	if d.rootBytes() < d.FSBytes {
		return v.fail(1, "the device is smaller than its file system")
	}
	d.FSBytes = d.rootBytes()
	return 0
}

// lvmReport is lvs, vgs and pvs with the columns that scripts ask for.
func lvmReport(v *invocation, d *Disk) int {
	g := d.Group
	if g == nil {
		return v.fail(5, "Failed to find it")
	}
	columns := map[string]string{
		"lvs": fmt.Sprintf("%s|%s|%s", g.Name, g.Volume, g.Layout),
		"vgs": fmt.Sprintf("%d|%d|%d", g.PVs, g.Extent, g.PVBytes-g.LVBytes),
		"pvs": fmt.Sprintf("%s|%d|%d|%d", d.device(d.RootPartition), g.PVBytes, g.Start, d.deviceBytes(d.RootPartition)),
	}
	fmt.Fprintf(v.stdout, "  %s\n", columns[v.name])
	return 0
}

func pvresize(v *invocation, d *Disk) int {
	if d.Group == nil || len(v.args) != 1 || v.args[0] != d.device(d.RootPartition) {
		return v.fail(5, "Failed to find physical volume %q", v.args)
	}
	d.Group.PVBytes = (d.deviceBytes(d.RootPartition) - d.Group.Start) / d.Group.Extent * d.Group.Extent
	return 0
}

// lvextend is `lvextend -l +100%FREE VG/LV`; it fails when nothing is free.
func lvextend(v *invocation, d *Disk) int {
	if d.Group == nil || !slices.Equal(v.args, []string{"-l", "+100%FREE", d.Group.Name + "/" + d.Group.Volume}) {
		return v.fail(3, "only -l +100%%FREE of %v is simulated", d.Group)
	}
	if d.Group.LVBytes == d.Group.PVBytes {
		return v.fail(5, "New size matches existing size")
	}
	d.Group.LVBytes = d.Group.PVBytes
	return 0
}
