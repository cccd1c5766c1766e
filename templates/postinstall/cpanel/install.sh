#!/bin/bash
# Runs the installer that was fetched. It may be run again: it goes on where it was.
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

if [[ -x /usr/local/cpanel/cpanel && -e $SLIPWAY_JOB/installed ]]; then
    echo "cPanel is installed already"
    exit 0
fi
code=0
bash "$SLIPWAY_JOB/installer" || code=$?
if ((code != 0)); then
    echo "the installer of cPanel ended with $code; its own log is /var/log/cpanel-install.log" >&2
    exit 1
fi
: >"$SLIPWAY_JOB/installed"
echo "cPanel is installed"
