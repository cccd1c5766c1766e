# First half of a test guest's boot: makes its root and steps into it. Runs as process 1 of new mount, UTS, IPC and PID namespaces.
#
# $1 is a folder of the test: files/ is laid over the machine's own root, disk is where the guest's is put together.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
dir=$1

# Nothing that is mounted from here on is seen by the machine.
mount --make-rprivate /
mount -t tmpfs -o size=512m,mode=755 tmpfs "$dir/disk"
mkdir "$dir/disk/upper" "$dir/disk/work" "$dir/disk/root"
# The machine's root is the lower layer, which overlayfs never writes; other file systems that are mounted in it do not show through.
mount -t overlay -o "lowerdir=/,upperdir=$dir/disk/upper,workdir=$dir/disk/work" overlay "$dir/disk/root"
root=$dir/disk/root

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# Nobody's home comes along.
mount -t tmpfs -o mode=700 tmpfs "$root/root"
mount -t tmpfs -o mode=755 tmpfs "$root/home"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t proc proc "$root/proc"
# Most of these are the whole kernel's.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"

mkdir "$root/run/outside" "$root/run/files"
cp -r "$dir/files/." "$root/run/files/"
cd "$root"
pivot_root . run/outside
cd /
umount -l /run/outside
rmdir /run/outside
exec setpriv --bounding-set=-sys_module,-sys_rawio,-sys_boot,-sys_time,-mknod,-syslog,-mac_admin \
    bash /run/files/inside.sh
