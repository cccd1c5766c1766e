#!/bin/bash
# Runs the installer that was fetched. It may be run again: it installs what is missing.
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

if [[ -x /usr/sbin/plesk && -e $SLIPWAY_JOB/installed ]]; then
    echo "Plesk is installed already"
    exit 0
fi
code=0
bash "$SLIPWAY_JOB/installer" || code=$?
if ((code != 0)); then
    echo "the installer of Plesk ended with $code; its own log is /var/log/plesk/install/autoinstaller3.log" >&2
    exit 1
fi
: >"$SLIPWAY_JOB/installed"
echo "Plesk is installed"
