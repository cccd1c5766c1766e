# Second half of a test guest's boot, inside of its own root: the template's identity, the network, sshd. Stays as process 1.
#
# /run/files holds boot (parameters) and root/ (files that the template has).
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [[ $(stat -f -c %T /) != overlayfs || $$ != 1 ]]; then
    echo "not inside of a guest: nothing is touched" >&2
    exit 1
fi
# shellcheck source=/dev/null
. /run/files/boot

rm -rf /etc/ssh /var/lib/slipway /var/lib/dbus/machine-id /etc/sudoers.d /etc/resolv.conf
cp -r /run/files/root/. /
chmod 600 /etc/ssh/ssh_host_*_key
chmod 700 /root /root/.ssh
rm -rf /run/files/root
hostname "$TEMPLATE_HOSTNAME"

ip link set lo up
if [[ -n $INTERFACE ]]; then
    if [[ -n $MAC ]]; then
        ip link set "$INTERFACE" address "$MAC"
    fi
    ip link set "$INTERFACE" up
    if [[ -n $ADDRESS ]]; then
        ip address replace "$ADDRESS" dev "$INTERFACE"
        if [[ -n $GATEWAY ]]; then
            ip route replace default via "$GATEWAY"
        fi
    else
        udhcpc -f -i "$INTERFACE" -t 5 -T 1 -A 1 -x "hostname:$TEMPLATE_HOSTNAME" -s /etc/udhcpc/default.script 2>&1 &
    fi
fi

mkdir -p /run/sshd
/usr/sbin/sshd -D -e &
# As process 1, bash collects the processes that jobs leave behind.
while :; do
    wait -n || true
    if [[ -z $(jobs -r) ]]; then
        echo "nothing is left to run" >&2
        exit 1
    fi
done
