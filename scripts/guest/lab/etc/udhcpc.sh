#!/bin/bash
# Takes what the DHCP server gives.
case $1 in
deconfig) ip address flush dev "$interface" ;;
bound | renew)
  ip address replace "$ip/$mask" dev "$interface"
  ip route replace default via "${router%% *}" dev "$interface"
  for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
  ;;
esac
