#!/bin/bash
# The lab: real guests behind the simulated pool, from order to login, told aloud. It is TestLab of e2e, which `make test` runs as well.
# KEEP=1 leaves it up until Ctrl-C. DEBIAN=1 orders a whole Debian 12 besides, as `make test` does. GUESTS=2,4,8 prints how long so many orders
# at once take by stage, and looks at nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "make lab needs root: it makes network namespaces, taps and packages' contents" >&2
  exit 1
fi
scripts/test-deps.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -c -o bin/lab.test ./e2e
cd e2e
status=0
SLIPWAY_LAB_TRANSCRIPT=/proc/$$/fd/1 SLIPWAY_LAB_KEEP=${KEEP:-} SLIPWAY_LAB_DEBIAN=${DEBIAN:-0} SLIPWAY_LAB_GUESTS=${GUESTS:-} ../bin/lab.test -test.run '^TestLab$' -test.timeout 0 >"$log" 2>&1 || status=$?
[ "$status" = 0 ] || cat "$log" >&2
exit "$status"
