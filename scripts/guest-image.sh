#!/bin/bash
# Makes a guest image for `slipway sim xapi --guests qemu` from Debian's own packages, once, and prints the folder where it lies.
#
#   guest-image.sh lab         small: busybox init, sshd, bash, the tools that post-install asks for; seconds to make, seconds to boot
#   guest-image.sh debian-12   a whole Debian 12 with systemd, by mmdebstrap; minutes
#   guest-image.sh text        a file of text in place of a disk: what nothing can boot
#
# A folder has disk.qcow2, and but for text vmlinuz, initrd and cmdline (the kernel is started as a hypervisor's loader would, which reads it
# from the guest's disk), host_key.pub (the template's, for the pool's configuration) and login_key (the installer's, whose public half is
# root's authorized_keys; one for all images of a cache, as a site has it). It is kept in ${XDG_CACHE_HOME:-~/.cache}/slipway by the text of this
# script and of scripts/guest: a changed one makes a new image. Needs root (owners of files), apt, and for debian-12 mmdebstrap. Nothing is mounted or installed on this machine.
set -euo pipefail
cd "$(dirname "$0")/guest"
kind=${1:-}
case $kind in
lab | debian-12 | text) ;;
*)
  echo "usage: guest-image.sh lab|debian-12|text" >&2
  exit 2
  ;;
esac
umask 022
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/slipway
mkdir -p "$cache"
exec 8>"$cache/guest-login.lock"
flock 8
if [ ! -f "$cache/guest-login.pub" ]; then # the last that is written of the pair
  rm -f "$cache/guest-login" "$cache/guest-login.new" "$cache/guest-login.new.pub"
  ssh-keygen -q -t ed25519 -N '' -C installer -f "$cache/guest-login.new"
  mv "$cache/guest-login.new" "$cache/guest-login"
  mv "$cache/guest-login.new.pub" "$cache/guest-login.pub"
fi
exec 8>&-
sum=$(find ../guest-image.sh . "$cache/guest-login.pub" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
image=$cache/guest-$kind-${sum:0:16}
exec 9>"$cache/guest-$kind.lock"
flock 9 # two tests that want it make it once
if [ -d "$image" ]; then
  touch "$image"
  echo "$image"
  exit 0
fi
find "$cache" -maxdepth 1 -name "guest-$kind-*" -mtime +14 -exec rm -rf {} + # of older scripts
rm -rf "$image.part"                                                          # was cut off
work=$image.part
mkdir -m 700 "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work/image" "$work/debs" "$work/kernel" "$work/initrd" "$work/root"
chmod 755 "$work/root"

# download PACKAGE... into debs, each with all that it depends on, as apt would choose for an empty machine.
download() {
  local list
  list=$(apt-get install -s -o Dir::State::status=/dev/null --no-install-recommends "$@" | awk '/^Inst/ {print $2}')
  # shellcheck disable=SC2086 # a list of package names
  (cd "$work/debs" && apt-get download -q $list >/dev/null 2>&1)
}

# kernel downloads Debian's kernel for virtual machines, and makes the initrd that knows its disk and network: busybox and nine modules.
kernel() {
  local package module name
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
  (cd "$work/kernel" && apt-get download -q "$package" >/dev/null 2>&1 && dpkg-deb -x "$package"_*.deb .)
  cp "$work"/kernel/boot/vmlinuz-* "$work/image/vmlinuz"
  mkdir -p "$work"/initrd/{bin,dev,proc,root,modules}
  cp "$(dpkg -L busybox-static | grep -m1 '/bin/busybox$')" "$work/initrd/bin/busybox"
  for name in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net virtio_console button evdev; do
    module=$(find "$work/kernel/lib/modules" -name "$name.ko")
    [ -n "$module" ] || continue # built into this kernel
    cp "$module" "$work/initrd/modules/"
    echo "$name" >>"$work/initrd/modules/order"
  done
  install -m 755 initrd-init "$work/initrd/init"
  # Not compressed: unpacking it would be done by an emulated processor.
  (cd "$work/initrd" && find . | cpio -o -H newc --quiet) >"$work/image/initrd"
}

download_lab() {
  download bash coreutils util-linux mount e2fsprogs fdisk openssh-server libc-bin hostname grep sed procps iproute2 qemu-guest-agent \
    busybox-static tar passwd login base-passwd
}

# root_lab lays out unpacked packages and no more: none of their scripts runs, so what those would make is made here.
root_lab() {
  local root=$work/root deb dir
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
  for deb in "$work"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink \
      --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/perl*' --exclude='./usr/lib/x86_64-linux-gnu/perl*'
  done
  ldconfig -r "$root"
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  sed -i 's|^root:[^:]*:0:0:.*|root:x:0:0:root:/root:/bin/bash|' "$root/etc/passwd"
  echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>"$root/etc/passwd"
  printf 'root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n' >"$root/etc/shadow"
  chmod 600 "$root/etc/shadow"
  printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
  ln -sf bash "$root/usr/bin/sh"
  ln -sf ../bin/busybox "$root/usr/sbin/init"
  for dir in poweroff reboot halt acpid udhcpc getty; do ln -sf ../bin/busybox "$root/usr/sbin/$dir"; done
  cp -r lab/etc "$root/"
  chmod 755 "$root/etc/init.d/rcS" "$root/etc/udhcpc.sh" "$root/etc/acpi/PWRF/00000080"
}

root_debian() {
  local root=$work/root sources
  sources=$(find /etc/apt/sources.list.d -name 'debian.sources' -o -name 'debian.list' | head -n 1)
  mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=systemd-sysv,udev,dbus,openssh-server,qemu-guest-agent,iproute2,procps,fdisk,e2fsprogs,sudo,hostname \
    bookworm "$root" "${sources:-/etc/apt/sources.list}" >&2
  cp -r debian/etc "$root/"
  echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
  ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
  ln -sf /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service"
}

# template is what a golden image of a hosting company has: the installer's key, and an identity that its clones have to lose.
template() {
  local root=$work/root
  cp "$cache/guest-login" "$work/image/login_key"
  mkdir -p -m 700 "$root/root/.ssh"
  cp "$cache/guest-login.pub" "$root/root/.ssh/authorized_keys"
  chmod 600 "$root/root/.ssh/authorized_keys"
  rm -f "$root"/etc/ssh/ssh_host_*
  mkdir -p "$root/etc/ssh"
  ssh-keygen -q -t ed25519 -N '' -C template -f "$root/etc/ssh/ssh_host_ed25519_key"
  ssh-keygen -q -t rsa -b 2048 -N '' -C template -f "$root/etc/ssh/ssh_host_rsa_key" # clones must not keep this one either
  cut -d' ' -f1,2 "$root/etc/ssh/ssh_host_ed25519_key.pub" >"$work/image/host_key.pub"
  echo template >"$root/etc/hostname"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\ttemplate\n' >"$root/etc/hosts"
  echo 00000000000000000000000000000c10 >"$root/etc/machine-id"
  echo '/dev/vda1 / ext4 defaults 0 1' >"$root/etc/fstab"
}

# pack puts the root into the one partition of a disk. mke2fs fills it from the folder, so nothing is mounted. SIZE in MiB.
pack() {
  local size=$1 raw=$work/raw
  truncate -s "${size}M" "$raw"
  printf 'label: gpt\nstart=2048, type=linux, bootable\n' | sfdisk -q "$raw"
  mke2fs -q -t ext4 -L root -E "offset=1048576,lazy_itable_init=1,root_owner=0:0" -d "$work/root" "$raw" "$((size - 2))M"
  qemu-img convert -f raw -O qcow2 "$raw" "$work/image/disk.qcow2"
  echo 'root=/dev/vda1 console=tty0 quiet net.ifnames=0 mitigations=off panic=10' >"$work/image/cmdline"
}

case $kind in
text)
  printf 'This is a text file. It was uploaded under the name of an image.\n' >"$work/raw"
  truncate -s 1M "$work/raw"
  qemu-img convert -f raw -O qcow2 "$work/raw" "$work/image/disk.qcow2"
  ;;
*)
  exec 8>"$cache/guest-apt.lock" # two images may be made at once, and apt has one set of lists
  flock 8
  apt-get update -q >&2 # what older lists name may be gone from the mirror
  kernel
  if [ "$kind" = lab ]; then download_lab; fi
  exec 8>&-
  "root_${kind%%-*}"
  template
  if [ "$kind" = lab ]; then pack 256; else pack 1024; fi
  ;;
esac
chmod 400 "$work"/image/*
mv -T "$work/image" "$image"
echo "$image"
