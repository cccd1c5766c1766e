#!/bin/bash
# Waits until nobody holds a package lock (a fresh machine likes to update itself at its first boot), then installs what was asked for.
# files/manager.sh knows the system's package manager.
#
# Reads: GUEST_PACKAGES (names between spaces, may be empty), GUEST_LOCK_WAIT (seconds), files/manager.sh
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

# manager.sh sets:
record_locks=() # files that are locked by POSIX record locks
pid_locks=()    # files that hold the pid of who has the lock
# and defines is_installed PACKAGE and install_all PACKAGE...
# shellcheck source=/dev/null
. "$SLIPWAY_JOB/files/manager.sh"

# record_lock_holder prints who holds one of record_locks, and fails when nobody does. flock(1) does not see POSIX locks: /proc/locks
# names the process, and its open files tell whether the lock is on one of ours.
record_lock_holder() {
    local locks kind advisory mode pid targets target name lock seen=" "
    ((${#record_locks[@]} > 0)) || return 1
    # At once: read from the file itself would have the kernel write the list anew for every line.
    locks=$(</proc/locks)
    while read -r _ kind advisory mode pid _; do
        # "1: POSIX ADVISORY WRITE 812 …"; a waiter's line has "->" in second place and is no holder.
        [[ $kind == POSIX && $advisory == ADVISORY && $mode == WRITE && $seen != *" $pid "* ]] || continue
        seen+="$pid "
        # One call for all of them; a file that was closed meanwhile is none.
        targets=$(readlink -- /proc/"$pid"/fd/*) || true
        while IFS= read -r target; do
            for lock in "${record_locks[@]}"; do
                if [[ $target == "$lock" ]]; then
                    read -r name <"/proc/$pid/comm" || name=unknown
                    printf '%s is held by %s (pid %s)\n' "$lock" "$name" "$pid"
                    return 0
                fi
            done
        done <<<"$targets"
    done <<<"$locks"
    return 1
}

# pid_lock_holder prints who is named in one of pid_locks and lives, and fails when nobody is.
pid_lock_holder() {
    local lock pid name
    for lock in "${pid_locks[@]}"; do
        [[ -s $lock ]] || continue
        pid=
        read -r pid _ <"$lock" || true
        [[ $pid =~ ^[0-9]+$ && -e /proc/$pid/comm ]] || continue
        read -r name <"/proc/$pid/comm" || name=unknown
        printf '%s is held by %s (pid %s)\n' "$lock" "$name" "$pid"
        return 0
    done
    return 1
}

lock_holder() { pid_lock_holder || record_lock_holder; }

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
    if ! is_installed "$package"; then
        missing+=("$package")
    fi
done
if ((${#missing[@]} == 0)); then
    echo "no package is missing"
    exit 0
fi
echo "installing ${missing[*]}"
install_all "${missing[@]}"
