#!/bin/bash
# What can be tested here as it is: no root, nothing installed. What was left out is listed last.
set -uo pipefail
cd "$(dirname "$0")/.."

left_out=$(mktemp)
trap 'rm -f "$left_out"' EXIT
SLIPWAY_TEST_QUICK=1 SLIPWAY_TEST_LEFT_OUT="$left_out" go test -count=1 -timeout 10m ./...
status=$?
if [ -s "$left_out" ]; then
  echo
  echo "left out, for want of (make test leaves nothing out):"
  cut -f1 "$left_out" | sort | uniq -c | sort -rn
fi
exit "$status"
