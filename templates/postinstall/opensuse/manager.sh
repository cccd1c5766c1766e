# zypper and rpm, for packages.sh.
record_locks=(/usr/lib/sysimage/rpm/.rpm.lock /var/lib/rpm/.rpm.lock)
pid_locks=(/run/zypp.pid)

is_installed() { rpm -q --quiet -- "$1"; }

install_all() {
    local code=0
    # Seconds that zypper waits for whoever took its lock since we looked.
    export ZYPP_LOCK_TIMEOUT=$GUEST_LOCK_WAIT
    zypper --non-interactive --quiet install --no-recommends -- "$@" || code=$?
    # 100 to 103 say that all went well and that patches, a reboot or a restart of zypper are due.
    case $code in
    0 | 100 | 101 | 102 | 103) ;;
    *) return "$code" ;;
    esac
}
