#!/bin/sh
# Installs the real programs that `make test` judges slipway with (Debian 12, root).
# No service is started by a package: policy-rc.d denies it while apt runs, and is put back as it was afterwards.
# What is installed already is left alone; nothing is upgraded.
set -eu

packages="isc-dhcp-server bind9 iptables conntrack iproute2 openssh-server openssh-client busybox-static udhcpc
rabbitmq-server postgresql-15 python3-pika python3-os-xenapi python3-winrm openssl chromium nodejs npm procps sudo curl perl fdisk e2fsprogs make gcc libc6-dev
qemu-system-x86 qemu-utils mmdebstrap cpio"

missing=
for p in $packages; do
  # A package counts when dpkg says it is installed, or when the program it is wanted for is there by other means.
  case $p in
    nodejs) command -v node >/dev/null 2>&1 && continue ;;
    npm | gcc | make) command -v "$p" >/dev/null 2>&1 && continue ;;
  esac
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "test-deps: these Debian packages are missing and only root can install them:$missing" >&2
  exit 1
fi

policy=/usr/sbin/policy-rc.d
saved=
if [ -e "$policy" ]; then
  saved=$(mktemp)
  cp -p "$policy" "$saved"
fi
restore() {
  if [ -n "$saved" ]; then cp -p "$saved" "$policy"; rm -f "$saved"; else rm -f "$policy"; fi
}
trap restore EXIT INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "test-deps: installing$missing" >&2
apt-get update -q >&2
# shellcheck disable=SC2086 # a list of package names
apt-get install -q -y --no-install-recommends $missing >&2
