#!/bin/bash
# Waits until nobody holds a package lock (a fresh machine likes to update itself at its first boot), then installs what was asked for.
#
# Reads: GUEST_PACKAGES (names between spaces, may be empty), GUEST_LOCK_WAIT (seconds)
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"
export DEBIAN_FRONTEND=noninteractive

# lock_holder prints who holds a package lock, and fails when nobody does. apt and dpkg take POSIX record locks, which flock(1) does not
# see: /proc/locks names the process, and its open files tell whether the lock is on one of ours.
lock_holder() {
    local kind advisory mode pid fd target name
    while read -r _ kind advisory mode pid _; do
        # "1: POSIX ADVISORY WRITE 812 …"; a waiter's line has "->" in second place and is no holder.
        [[ $kind == POSIX && $advisory == ADVISORY && $mode == WRITE ]] || continue
        for fd in /proc/"$pid"/fd/*; do
            target=$(readlink -- "$fd") || continue
            case $target in
            /var/lib/dpkg/lock | /var/lib/dpkg/lock-frontend | /var/lib/apt/lists/lock | /var/cache/apt/archives/lock)
                read -r name <"/proc/$pid/comm" || name=unknown
                printf '%s is held by %s (pid %s)\n' "$target" "$name" "$pid"
                return 0
                ;;
            esac
        done
    done </proc/locks
    return 1
}

wait_for_lock() {
    local waited=0 holder last=
    while holder=$(lock_holder 2>/dev/null); do
        if ((waited >= GUEST_LOCK_WAIT)); then
            echo "gave up after ${waited}s: $holder" >&2
            return 75
        fi
        if [[ $holder != "$last" ]]; then
            echo "waiting for the package lock: $holder"
            echo "packages: waiting, $holder" >"$SLIPWAY_JOB/stage"
            last=$holder
        fi
        sleep 1
        waited=$((waited + 1))
    done
    echo "package lock is free after ${waited}s"
    echo packages >"$SLIPWAY_JOB/stage"
}

wait_for_lock
missing=()
for package in $GUEST_PACKAGES; do
    # shellcheck disable=SC2016
    status=$(dpkg-query -W -f '${db:Status-Status}' -- "$package" 2>/dev/null) || status=
    if [[ $status != installed ]]; then
        missing+=("$package")
    fi
done
if ((${#missing[@]} == 0)); then
    echo "no package is missing"
    exit 0
fi
echo "installing ${missing[*]}"
apt-get -q -o DPkg::Lock::Timeout="$GUEST_LOCK_WAIT" update
# dpkg may have been cut off by a crash in an earlier attempt.
dpkg --configure -a
apt-get -q -y -o DPkg::Lock::Timeout="$GUEST_LOCK_WAIT" -o Dpkg::Options::=--force-confold install -- "${missing[@]}"
