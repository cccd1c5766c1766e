#!/bin/bash
# Asks the vendor for this address's license. No answer is another matter than a refusal: the first may be tried again.
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

code=0
said=$(/usr/local/cpanel/cpkeyclt 2>&1) || code=$?
printf '%s\n' "$said"
case $said in
*"Update succeeded"* | *"update succeeded"*)
    echo "cPanel is licensed"
    exit 0
    ;;
*[Ii]nvalid* | *"not licensed"* | *expired* | *"No valid license"* | *"cannot read the license file"*)
    echo "license: cPanel has none for this machine's public address: buy one or move one to it, then retry" >&2
    exit 80
    ;;
esac
echo "the license server of cPanel gave no answer (exit code $code)" >&2
exit 1
