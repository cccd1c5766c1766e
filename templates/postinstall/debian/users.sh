#!/bin/bash
# The customer's account and keys. Lines that are there already stay: the installer still needs its own until it leaves.
#
# Reads: GUEST_USER, files/authorized_keys
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

if ! getent passwd "$GUEST_USER" >/dev/null; then
    useradd --create-home --shell /bin/bash -- "$GUEST_USER"
    echo "user $GUEST_USER created"
fi
account=$(getent passwd "$GUEST_USER")
IFS=: read -r _ _ uid gid _ home _ <<<"$account"

keys=$home/.ssh/authorized_keys
mkdir -p -- "$home/.ssh"
chmod 700 -- "$home/.ssh"
{
    if [[ -e $keys ]]; then
        cat -- "$keys"
    fi
    while IFS= read -r key || [[ -n $key ]]; do
        if [[ -n $key ]] && ! { [[ -e $keys ]] && grep -qxF -e "$key" -- "$keys"; }; then
            printf '%s\n' "$key"
        fi
    done <"$SLIPWAY_JOB/files/authorized_keys"
} >"$keys.slipway"
chmod 600 -- "$keys.slipway"
chown -- "$uid:$gid" "$home/.ssh" "$keys.slipway"
mv -f -- "$keys.slipway" "$keys"
# sshd may not read a file with a wrong label.
if [[ -e /sys/fs/selinux/enforce ]]; then
    restorecon -R -F -- "$home/.ssh"
fi
echo "keys of $GUEST_USER installed"

# The account has a key and no password, so sudo must not ask for one.
if [[ $GUEST_USER != root && -d /etc/sudoers.d ]]; then
    printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$GUEST_USER" >/etc/sudoers.d/90-slipway.new
    chmod 440 /etc/sudoers.d/90-slipway.new
    visudo -cqf /etc/sudoers.d/90-slipway.new
    mv -f /etc/sudoers.d/90-slipway.new /etc/sudoers.d/90-slipway
    echo "sudo granted to $GUEST_USER"
fi
