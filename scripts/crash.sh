#!/bin/bash
# The crash test of the real binary, in full: INSTALLS orders while everything is killed by the plan of SEED. See docs/reliability.md.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
  echo "make crash needs root: it makes network namespaces and installs packages" >&2
  exit 1
fi
scripts/test-deps.sh

report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
SLIPWAY_CRASH_INSTALLS="${INSTALLS:-200}" SLIPWAY_CRASH_SEED="${SEED:-1}" SLIPWAY_CRASH_REPORT="$report" \
  go test -count=1 -timeout 30m -run '^TestCrash$' -v ./e2e || status=$?
echo
cat "$report"
exit "$status"
