#!/bin/bash
# Everything, with the race detector, on real parts. Installs the Debian packages that are missing, starts private servers on loopback
# ports and in namespaces, and fails when the machine is not afterwards as it was before.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
  echo "make test needs root: it makes network namespaces and installs packages. Without root: make test-quick" >&2
  exit 1
fi
scripts/test-deps.sh
scripts/test-tools.sh

before=$(mktemp)
after=$(mktemp)
made=$(mktemp)
walked=$(mktemp)
scripts/machine-state.sh >"$before"

# The guests' images come from the mirror while the first tests run; a test that comes to one too early waits for it.
(scripts/guest-image.sh lab && scripts/guest-image.sh debian-12) >"$made" 2>&1 &
maker=$!
walker=
trap 'for p in $maker $walker; do kill "$p" 2>/dev/null || true; done; rm -f "$before" "$after" "$made" "$walked"' EXIT

# The harness and the simulation walk everything one after another: nothing there can race, and watching made them most of the time.
# Nor do they wait for anything: they get what time the others leave, and a little more, so that they end with them.
single='slipway/(orchestrator/orchestratortest|internal/simulation)'
# What takes long begins first, so that none of it is left to run alone at the end.
long='slipway/(e2e|cmd/slipway|internal/service|store/postgres|workers/(queue/amqp|hypervisor/xapi|appliance/carrier))'

status=0
make --no-print-directory lint || status=$?
# The product as it is shipped. The race detector needs cgo, it does not.
CGO_ENABLED=0 go build -o /dev/null ./cmd/slipway || status=$?
if [ "$status" = 0 ]; then
  packages=$(go list ./...) # which lint has vetted
  # shellcheck disable=SC2046 # a list of packages
  nice -n 5 go test -vet=off -p 1 -count=1 -timeout 40m $(grep -xE "$single" <<<"$packages") >"$walked" 2>&1 &
  walker=$!
  # SQLite in Go is machine-made code of others: watching its every access multiplies the time of all that stores something.
  # Four tests of a package at a time, for they wait for servers more than they compute.
  # shellcheck disable=SC2046
  go test -vet=off -race -gcflags='modernc.org/...=-race=false' -count=1 -parallel 4 -timeout 40m \
    $(grep -xE "$long" <<<"$packages" | sort) $(grep -vxE "$single|$long" <<<"$packages") || status=$?
  wait "$walker" || status=$?
  walker=
  cat "$walked"
fi
# One minute for all targets together, however many they become; a minute for each is `make fuzz`.
if [ "$status" = 0 ]; then
  FUZZTOTAL=60 scripts/fuzz.sh || status=$?
fi

if ! wait "$maker"; then
  echo "make test: an image could not be made:" >&2
  cat "$made" >&2
  status=1
fi
maker=
scripts/machine-state.sh >"$after"
if ! diff -u "$before" "$after"; then
  echo "make test: the machine is not as it was before the tests (see above)" >&2
  status=1
fi
exit "$status"
