#!/bin/bash
# Checks of the add-on, after those of the system.
set -euo pipefail
if /usr/sbin/plesk version >/dev/null 2>&1; then
    echo "plesk=ok"
else
    echo "plesk=failed: 'plesk version' does not answer"
    exit 1
fi
