#!/bin/bash
# Fuzzes every target there is, FUZZJOBS at a time with one worker each, and fails with the path of each input that broke something.
#   FUZZTIME   how long each (default 1m)
#   FUZZTOTAL  seconds that all of them may take together, shared evenly; then FUZZTIME does not count
#   FUZZJOBS   how many at a time (default: the cores)
#   arguments  only targets whose "./package Name" has one of these in it
# New inputs that reach new code are kept in Go's build cache (go env GOCACHE)/fuzz and are where the next run begins.
set -uo pipefail
cd "$(dirname "$0")/.."

jobs=${FUZZJOBS:-$(nproc)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# "./package Name" of each; the order is the files', so that a run can be compared with another.
targets=$(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed -E 's#^(.*)/[^/]*_test\.go:[0-9]+:func (Fuzz[A-Za-z0-9_]*)\(#\1 \2#' | sort -u)
if [ $# -gt 0 ]; then
  targets=$(grep -F "$(printf '%s\n' "$@")" <<<"$targets")
fi
count=$(grep -c . <<<"$targets")
if [ "$count" = 0 ]; then
  echo "make fuzz: no target${*:+ matches $*}" >&2
  exit 1
fi
each=${FUZZTIME:-1m}
if [ -n "${FUZZTOTAL:-}" ]; then
  each=$((FUZZTOTAL * jobs / count))
  [ "$each" -ge 1 ] || each=1
  each=${each}s
fi
echo "make fuzz: $count targets, $each each, $jobs at a time"

# Built first, so that no target's time goes into a compiler's.
module=$(go list -m)
cache=$(go env GOCACHE)/fuzz
for package in $(cut -d' ' -f1 <<<"$targets" | sort -u); do
  go test -c -vet=off -fuzz=. -o "$work/${package//\//_}.test" "$package" || exit 1
done

fuzz() {
  local package=$1 name=$2 log="$work/${1//\//_}.$2"
  if (cd "$package" && exec "$work/${package//\//_}.test" -test.run='^$' -test.fuzz="^$name\$" -test.fuzztime="$each" -test.fuzzminimizetime=200x \
    -test.parallel=1 -test.fuzzcachedir="$cache/$module/${package#./}") >"$log" 2>&1; then
    printf 'ok    %-24s %-32s %s\n' "$name" "$package" "$(grep -oE 'execs: [0-9]+ .*' "$log" | tail -1)"
    return
  fi
  # Go's fuzzer takes its own end for a failure when it comes while a worker is between two inputs: these lines, no input, and nothing else.
  if [ "$(grep -vE '^fuzz: (elapsed|minimizing)|^ *$' "$log" | sed -E 's/ \([0-9.]+s\)$//; s/^ +//' | tr '\n' '|')" = "--- FAIL: $name|context deadline exceeded|FAIL|" ]; then
    printf 'ok    %-24s %-32s %s (its time ended)\n' "$name" "$package" "$(grep -oE 'execs: [0-9]+ .*' "$log" | tail -1)"
    return
  fi
  printf 'FAIL  %-24s %s\n' "$name" "$package"
  tail -40 "$log" | sed 's/^/      /'
  local input
  input=$(grep -oE 'testdata/fuzz/[A-Za-z0-9_]+/[0-9a-f]+' "$log" | head -1)
  if [ -n "$input" ]; then
    echo "      the input: $package/$input"
    echo "      again:     go test -run '^$name\$/^${input##*/}\$' $package"
  fi
  return 1
}
export -f fuzz
export work each cache module

if xargs -P "$jobs" -L 1 bash -c 'fuzz "$1" "$2"' fuzz <<<"$targets"; then
  echo "make fuzz: nothing broke"
else
  echo "make fuzz: something broke; keep its input in testdata/fuzz, where every 'go test' tries it" >&2
  exit 1
fi
