// Package qemu boots the VMs of a simulated pool for real: each as a QEMU process, its disks qcow2 files, its interfaces taps on the
// machine's bridges. It is what `slipway sim xapi --guests qemu` gives to package xapi.
//
// # Disks
//
// A clone is a file that holds the differences to another file, which nobody writes any more: a disk that is cloned becomes such a file
// itself, and goes on in a new one above it. A disk without differences of its own (a template's) is not stacked up again by its next
// clone. The chain is bounded as in XenServer's VHD drivers (30).
//
// A guest's processor is started as Xen's loader for paravirtual guests does it: kernel and initrd are those that belong to the image
// that the boot disk descends from, and lie beside it. An image without a kernel is booted by the BIOS from its disk. All else (root file
// system, what post-install writes, logs) is on the disk, and survives reboot and shutdown as on any machine.
//
// # What is reported
//
// Guest metrics come from the QEMU guest agent inside the guest, over a virtio port, as those of XenServer come from its tools over
// xenstore: nothing is known of a guest without one, whatever the network has seen of it. Power changes come from QEMU's own events.
//
// # Ownership
//
// QEMU's control, agent and screen are sockets without a name, and its taps are descriptors: all of it ends with the process. The process
// ends with the simulator, however that ends, since the kernel kills it with the thread that started it. What a killed simulator leaves behind
// is its folder of disks, which the next one removes (NewDir).
package qemu
