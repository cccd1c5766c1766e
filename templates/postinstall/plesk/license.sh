#!/bin/bash
# Looks which license key Plesk has. No answer is another matter than no license: the first may be tried again.
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

code=0
said=$(/usr/sbin/plesk bin keyinfo --list 2>&1) || code=$?
if ((code != 0)); then
    echo "Plesk does not say which key it has (exit code $code): $said" >&2
    exit 1
fi
id= limit=
while IFS=': ' read -r name value; do
    case $name in
    plesk_key_id) id=$value ;;
    lim_date) limit=$value ;;
    esac
done <<<"$said"
today=$(date +%Y%m%d)
case $id in
"" | plsk.00000000.0000 | plsk000000000000)
    echo "license: Plesk has no key: its license server refused a trial for this machine's public address; get a key for it, then retry" >&2
    exit 80
    ;;
esac
# -1 is no limit.
if [[ $limit =~ ^[0-9]{8}$ ]] && ((limit < today)); then
    echo "license: the key of Plesk ended at $limit: renew it, then retry" >&2
    exit 80
fi
echo "Plesk has a key until ${limit:-an unknown day}"
