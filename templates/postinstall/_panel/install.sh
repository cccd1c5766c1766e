#!/bin/bash
# Runs the installer that was fetched, until it has succeeded once on this machine.
#
# Reads: PANEL (its name), PANEL_PROGRAM (there once it is installed), PANEL_LOG (the installer's own)
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

# Outlives the job, for another attempt; goes with the installer's other traces.
marker=/var/lib/slipway/$PANEL.installed
if [[ -x $PANEL_PROGRAM && -e $marker ]]; then
    echo "$PANEL is installed already"
    exit 0
fi
code=0
bash "$SLIPWAY_JOB/installer" || code=$?
if ((code != 0)); then
    echo "the installer of $PANEL ended with $code; its own log is $PANEL_LOG" >&2
    exit 1
fi
: >"$marker"
echo "$PANEL is installed"
