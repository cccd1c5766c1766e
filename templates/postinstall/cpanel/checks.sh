#!/bin/bash
# Checks of the add-on, after those of the system.
set -euo pipefail
failed=0
if [[ -x /usr/local/cpanel/cpanel ]]; then
    echo "cpanel=ok"
else
    echo "cpanel=failed: /usr/local/cpanel/cpanel is not there"
    failed=1
fi
if [[ -s /usr/local/cpanel/cpanel.lisc ]]; then
    echo "cpanel_license=ok"
else
    echo "cpanel_license=failed: /usr/local/cpanel/cpanel.lisc is empty or not there"
    failed=1
fi
exit "$failed"
