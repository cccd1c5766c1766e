#!/bin/bash
# Takes away what the template left behind and no customer should find.
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

# The last ones are of NetworkManager and udev: addresses derived from the template's secret, and names of its interfaces.
rm -f -- /root/.bash_history /var/lib/systemd/random-seed /var/lib/systemd/credential.secret \
    /var/lib/NetworkManager/secret_key /etc/udev/rules.d/70-persistent-net.rules
# Journals are kept by machine id: those of any other id are the template's.
for journal in /var/log/journal/*; do
    if [[ -d $journal && ${journal##*/} != "$GUEST_MACHINE_ID" ]]; then
        rm -rf -- "$journal"
    fi
done
echo "template's leftovers removed"
