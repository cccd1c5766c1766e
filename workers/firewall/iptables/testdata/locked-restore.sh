#!/bin/sh
# iptables-restore that never gets its lock.
[ "$1" = -V ] && exit 0
echo 'Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...' >&2
exit 4
