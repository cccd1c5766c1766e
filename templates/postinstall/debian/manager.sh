# apt and dpkg, for packages.sh.
export DEBIAN_FRONTEND=noninteractive
record_locks=(/var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/apt/lists/lock /var/cache/apt/archives/lock)

is_installed() {
    local status
    # shellcheck disable=SC2016
    status=$(dpkg-query -W -f '${db:Status-Status}' -- "$1" 2>/dev/null) || return 1
    [[ $status == installed ]]
}

install_all() {
    apt-get -q -o DPkg::Lock::Timeout="$GUEST_LOCK_WAIT" update
    # dpkg may have been cut off by a crash in an earlier attempt.
    dpkg --configure -a
    apt-get -q -y -o DPkg::Lock::Timeout="$GUEST_LOCK_WAIT" -o Dpkg::Options::=--force-confold install -- "$@"
}
