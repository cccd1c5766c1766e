#!/bin/bash
# Measures durable steps on both stores, on this machine's disk, and the console gateway beside a direct connection, and prints a table. Counts
# are exact; times are this machine's, today.
# PostgreSQL is a private instance with fsync on; where it is not installed its rows are left out and that is said.
set -euo pipefail
cd "$(dirname "$0")/.."

left_out=$(mktemp)
raw=$(mktemp)
trap 'rm -f "$left_out" "$raw"' EXIT
if [ "${SLIPWAY_BENCH_STRICT:-}" != 1 ]; then
  export SLIPWAY_TEST_QUICK=1 SLIPWAY_TEST_LEFT_OUT="$left_out"
fi

echo "machine: $(nproc) CPUs, $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), $(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo) of memory"
echo "disk:    ${TMPDIR:-/tmp} on $(df --output=fstype "${TMPDIR:-/tmp}" | tail -1), Linux $(uname -r)"
echo "built:   $(go version | cut -d' ' -f3-4), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo

# `go test` prints "BenchmarkName-CPUS  N  value unit  value unit …"; the table has a column for each unit.
table() {
  awk '
    /^Benchmark/ {
      name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
      line = sprintf("%-36s", name)
      for (i = 3; i < NF; i += 2) if ($(i + 1) != "ns/op") line = line sprintf("  %12s %-14s", $i, $(i + 1))
      print line; fflush()
    }'
}
run() { # run PATTERN BENCHTIME [PACKAGE]
  go test -run '^$' -bench "$1" -benchtime "$2" -timeout 20m "${3:-./bench}" | tee "$raw" | table
  if grep -q '^--- FAIL\|^FAIL' "$raw"; then
    cat "$raw" >&2
    exit 1
  fi
}
run '^BenchmarkSteps$' "${SLIPWAY_BENCH_TIME:-2s}"
run '^BenchmarkWaiting$' 1x
run '^BenchmarkBurst$' 1x
run '^Benchmark(Picture|QEMU|Key|Idle)$' 1x ./workers/console/gateway

if [ -s "$left_out" ]; then
  echo
  echo "left out, for want of: $(cut -f1 "$left_out" | sort -u | tr '\n' ' ')"
fi
