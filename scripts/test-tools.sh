#!/bin/bash
# The tests judge rendered files by the real tools. A tool that is there but is not itself would judge nothing: each must know its own name.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

fail() {
  echo "test-tools: $1 is not the real one: $2" >&2
  exit 1
}
knows() { # knows PROGRAM WORD ARGUMENTS...
  local program=$1 word=$2
  shift 2
  command -v "$program" >/dev/null || fail "$program" "it is not installed"
  "$program" "$@" 2>&1 | grep -qi -- "$word" || fail "$program" "'$program $*' does not say $word"
}
knows dhcpd 'isc-dhcpd-' --version
knows iptables-restore iptables --version
knows iptables-save iptables --version
knows conntrack conntrack --version
knows ip iproute2 -V
knows sshd OpenSSH -V
knows chromium Chromium --version
knows qemu-system-x86_64 QEMU --version
knows qemu-img qemu-img --version
