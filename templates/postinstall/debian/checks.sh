#!/bin/bash
# Says of each thing that makes the machine its customer's own whether it is so.
set -euo pipefail
# shellcheck source=/dev/null
. "${SLIPWAY_JOB:?}/env"

failed=0
# check NAME WHY COMMAND...: WHY is printed when COMMAND fails.
check() {
    local name=$1 why=$2
    shift 2
    if "$@"; then
        echo "$name=ok"
    else
        echo "$name=failed: $why"
        failed=1
    fi
}

hostname_is_set() {
    local stored=
    read -r stored </etc/hostname || true
    [[ $(hostname) == "$GUEST_HOSTNAME" && $stored == "$GUEST_HOSTNAME" ]]
}

machine_id_is_own() {
    local id= template=
    read -r id </etc/machine-id || true
    if [[ -e $SLIPWAY_JOB/template-machine-id ]]; then
        read -r template <"$SLIPWAY_JOB/template-machine-id" || true
    fi
    [[ -n $id && $id != "$template" && $id == "$GUEST_MACHINE_ID" ]]
}

host_key_is_ours() {
    local line fingerprint=
    line=$(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key) || return 1
    read -r _ fingerprint _ <<<"$line"
    [[ $fingerprint == "$GUEST_HOST_KEY" ]]
}

host_key_is_alone() {
    local key
    for key in /etc/ssh/ssh_host_*_key; do
        [[ $key == /etc/ssh/ssh_host_ed25519_key ]] || return 1
    done
}

customer_keys_are_in() {
    local key account home
    account=$(getent passwd "$GUEST_USER") || return 1
    IFS=: read -r _ _ _ _ _ home _ <<<"$account"
    while IFS= read -r key || [[ -n $key ]]; do
        if [[ -n $key ]]; then
            grep -qxF -e "$key" -- "$home/.ssh/authorized_keys" || return 1
        fi
    done <"$SLIPWAY_JOB/files/authorized_keys"
}

labels_are_right() {
    local account home wrong
    account=$(getent passwd "$GUEST_USER") || return 1
    IFS=: read -r _ _ _ _ _ home _ <<<"$account"
    # -n changes nothing, -v names what it would change.
    wrong=$(restorecon -R -F -n -v -- /etc/hostname /etc/hosts /etc/machine-id /etc/ssh "$home/.ssh") || return 1
    [[ -z $wrong ]]
}

check hostname "hostname or /etc/hostname is not $GUEST_HOSTNAME" hostname_is_set
check machine_id "/etc/machine-id is empty, the template's or not ours" machine_id_is_own
check host_key "/etc/ssh/ssh_host_ed25519_key is not $GUEST_HOST_KEY" host_key_is_ours
check host_keys "a host key of the template is still in /etc/ssh" host_key_is_alone
check authorized_keys "a key of the customer is not in authorized_keys of $GUEST_USER" customer_keys_are_in
if [[ -e /sys/fs/selinux/enforce ]]; then
    check selinux "a file of the identity or of the customer's keys has a wrong SELinux label" labels_are_right
fi
# An add-on brings checks of its own.
for more in "$SLIPWAY_JOB"/files/checks-*.sh; do
    if [[ -e $more ]]; then
        bash "$more" || failed=1
    fi
done
exit "$failed"
