#!/bin/bash
# Makes a clone a machine of its own: machine id, hostname, host key. Safe to run again at any point.
#
# Reads: GUEST_HOSTNAME, GUEST_MACHINE_ID (32 hex digits), SSH_UNIT, secrets/ssh_host_ed25519_key, files/ssh_host_ed25519_key.pub
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

# replace FILE: stdin becomes FILE in one step, so that a crash leaves the old text or the new one. Where SELinux is, a new file carries
# the label of its folder until it is given its own.
replace() {
    cat >"$1.slipway"
    mv -f -- "$1.slipway" "$1"
    if [[ -e /sys/fs/selinux/enforce && $1 == /etc/* ]]; then
        restorecon -F -- "$1"
    fi
}

machine_id() {
    local id=
    # The template's id is kept for the check: a clone that still carries it shares DHCP client ids and journals with its siblings.
    if [[ -s /etc/machine-id ]]; then
        read -r id </etc/machine-id || true
        if [[ $id != "$GUEST_MACHINE_ID" ]]; then
            printf '%s\n' "$id" | replace "$SLIPWAY_JOB/template-machine-id"
        fi
    fi
    printf '%s\n' "$GUEST_MACHINE_ID" | replace /etc/machine-id
    if [[ -f /var/lib/dbus/machine-id && ! -L /var/lib/dbus/machine-id ]]; then
        printf '%s\n' "$GUEST_MACHINE_ID" | replace /var/lib/dbus/machine-id
    fi
    echo "machine id set"
}

host_name() {
    printf '%s\n' "$GUEST_HOSTNAME" | replace /etc/hostname
    hostname "$GUEST_HOSTNAME"

    local line short=${GUEST_HOSTNAME%%.*} names=$GUEST_HOSTNAME
    if [[ $short != "$GUEST_HOSTNAME" ]]; then
        names="$GUEST_HOSTNAME $short"
    fi
    {
        if [[ -e /etc/hosts ]]; then
            while IFS= read -r line || [[ -n $line ]]; do
                case $line in
                127.0.1.1[[:space:]]*) ;;
                *) printf '%s\n' "$line" ;;
                esac
            done </etc/hosts
        fi
        printf '127.0.1.1\t%s\n' "$names"
    } | replace /etc/hosts
    echo "hostname set to $GUEST_HOSTNAME"
}

host_key() {
    local key
    # The new key lies beside the old ones before any of those goes: sshd always has one to serve.
    (
        umask 077
        replace /etc/ssh/ssh_host_ed25519_key <"$SLIPWAY_JOB/secrets/ssh_host_ed25519_key"
    )
    replace /etc/ssh/ssh_host_ed25519_key.pub <"$SLIPWAY_JOB/files/ssh_host_ed25519_key.pub"
    for key in /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub; do
        case $key in
        /etc/ssh/ssh_host_ed25519_key | /etc/ssh/ssh_host_ed25519_key.pub) ;;
        *) rm -f -- "$key" ;;
        esac
    done

    /usr/sbin/sshd -t
    # A reload keeps the sessions that are open. Without systemd the listener's own pid file names it.
    if [[ -d /run/systemd/system ]]; then
        systemctl try-reload-or-restart "$SSH_UNIT"
    elif [[ -s /run/sshd.pid ]]; then
        kill -HUP "$(cat /run/sshd.pid)"
    else
        echo "sshd is not managed by systemd and has no /run/sshd.pid: it cannot be told to take its new key" >&2
        return 1
    fi
    echo "host key installed"
}

machine_id
host_name
host_key
