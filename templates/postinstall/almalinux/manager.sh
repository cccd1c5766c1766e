# dnf and rpm, for packages.sh. dnf writes its pid into lock files and waits by itself, for ever and without a word in our stage; rpm locks
# its database.
record_locks=(/var/lib/rpm/.rpm.lock /usr/lib/sysimage/rpm/.rpm.lock)
pid_locks=(/var/lib/dnf/rpmdb_lock.pid /var/cache/dnf/metadata_lock.pid /var/cache/dnf/download_lock.pid)

is_installed() { rpm -q --quiet -- "$1"; }

# Configuration files that were changed stay: rpm puts new ones beside them (.rpmnew).
install_all() { dnf -q -y install -- "$@"; }
