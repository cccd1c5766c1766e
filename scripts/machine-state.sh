#!/bin/bash
# Prints what tests must leave as it was: the machine's name and identity, users, /etc, namespaces, rules, services and listeners.
set -u
echo "hostname $(cat /proc/sys/kernel/hostname)"
find /etc -xdev -type f -not -name 'ld.so.cache' -not -name 'mtab' -print0 | sort -z | xargs -0 sha256sum
echo "namespaces:"
ip netns list 2>/dev/null | sort
echo "links:"
ip -o link 2>/dev/null | awk '{print $2}' | sort
echo "rules:"
for save in iptables-save iptables-legacy-save; do
  command -v "$save" >/dev/null && "$save" 2>/dev/null | grep -v '^#' | sed 's/\[[0-9]*:[0-9]*\]//'
done
echo "daemons:"
ps -eo comm= | grep -E '^(dhcpd|sshd|beam.smp|epmd|postgres|xvp|named)$' | sort | uniq -c
echo "sysctl:"
cat /proc/sys/net/ipv4/ip_forward
