#!/bin/bash
# Fetches an add-on's installer and looks whether it is the one that was pinned. Nothing of it has run by then.
#
# Reads: INSTALLER_URL, INSTALLER_SHA256
set -euo pipefail
umask 077
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

file=$SLIPWAY_JOB/installer
sum_of() {
    local sum
    sum=$(sha256sum -- "$1")
    printf '%s\n' "${sum%% *}"
}

if [[ -e $file && $(sum_of "$file") == "$INSTALLER_SHA256" ]]; then
    echo "the installer is here already"
    exit 0
fi
echo "fetching $INSTALLER_URL"
curl --fail --silent --show-error --location --proto =http,https --max-time 240 --retry 3 --output "$file.part" -- "$INSTALLER_URL"
sum=$(sum_of "$file.part")
if [[ $sum != "$INSTALLER_SHA256" ]]; then
    rm -f -- "$file.part"
    echo "what $INSTALLER_URL serves has checksum $sum and not $INSTALLER_SHA256: try the new installer, then pin it" >&2
    exit 82
fi
mv -f -- "$file.part" "$file"
echo "the installer is the one that was pinned"
