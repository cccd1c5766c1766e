#!/bin/bash
# The one way in that stays in a finished machine: it changes the keys that slipway has put there, and the hostname, and nothing else. The
# line in authorized_keys that leads here has restrict and this script as its command, so whoever holds the key can send what is below and
# no command. Whoever owns the machine may take that line out; then keys and hostname are changed by hand.
#
# Reads from standard input, a line each:
#
#   slipway-maintain 1
#   hostname NAME          optional
#   account NAME           whose authorized_keys; with keys only
#   drop TYPE KEY          a key that goes; any number
#   key TYPE KEY COMMENT   a key that is there afterwards; any number
#   end
#
# Nothing is done before all of it is there. Then it says what is so: "hostname NAME", "keys N".
# Exit codes: 93 it was asked for something else, 94 what it was sent is malformed.
set -euo pipefail
umask 022
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

refuse() {
    echo "$1" >&2
    exit 94
}

# change_keys FILE: "drop" and "key" lines on standard input become so in an authorized_keys file. It runs as the account itself: its home is
# its own, and what root writes there could be led elsewhere.
change_keys() {
    local file=$1 line known gone new placed= have=0
    local -a ours=() keys=() word
    while IFS= read -r line; do
        read -r -a word <<<"${line#* }"
        ours+=("${word[0]} ${word[1]}")
        if [[ $line == "key "* ]]; then
            keys+=("${line#* }")
        fi
    done
    mkdir -p -- "${file%/*}"
    chmod 700 -- "${file%/*}"
    if [[ ! -e $file ]]; then
        : >"$file"
    fi
    new=$(mktemp -- "$file.XXXXXX")
    {
        while IFS= read -r line || [[ -n $line ]]; do
            gone=
            if [[ $line != *'/usr/local/lib/slipway/maintain" '* ]]; then
                for known in "${ours[@]}"; do
                    if [[ " $line " == *" $known "* ]]; then # with options or without
                        gone=1
                    fi
                done
            fi
            if [[ -z $gone ]]; then
                printf '%s\n' "$line"
            elif [[ -z $placed ]]; then # where the first one was, so that a change that is taken back leaves the file as it was
                printf '%s\n' "${keys[@]}"
                placed=1
            fi
        done <"$file"
        if [[ -z $placed ]]; then
            printf '%s\n' "${keys[@]}"
        fi
    } >"$new"
    chmod 600 -- "$new"
    mv -f -- "$new" "$file"
    for known in "${keys[@]}"; do
        if grep -qxF -e "$known" -- "$file"; then
            have=$((have + 1))
        fi
    done
    echo "keys $have"
}

if [[ ${1:-} == keys ]]; then
    change_keys "$2"
    exit
fi

line=
IFS= read -r line || true
if [[ $line != "slipway-maintain 1" ]]; then
    echo "this way in takes a change of keys or hostname, and nothing else" >&2
    exit 93
fi
name=
account=
keys=()
complete=
for ((n = 0; n < 200; n++)); do
    IFS= read -r line || break
    ((${#line} <= 17000)) || refuse "a line is too long"
    case $line in
    "hostname "*)
        name=${line#* }
        [[ $name =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$ && ${#name} -le 64 ]] || refuse "the hostname is none"
        ;;
    "account "*)
        account=${line#* }
        [[ $account =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] || refuse "the account is none"
        ;;
    "drop "* | "key "*)
        [[ ${line#* } =~ ^[a-z0-9@.-]+\ [A-Za-z0-9+/]+=*(\ [^[:cntrl:]]*)?$ ]] || refuse "a key is none"
        keys+=("$line")
        ;;
    end)
        complete=1
        break
        ;;
    *) refuse "a line says nothing that is understood" ;;
    esac
done
[[ -n $complete ]] || refuse "the change is cut off"
((${#keys[@]} == 0)) || [[ -n $account ]] || refuse "there are keys and no account"

# replace FILE: stdin becomes FILE in one step.
replace() {
    cat >"$1.slipway"
    mv -f -- "$1.slipway" "$1"
    if [[ -e /sys/fs/selinux/enforce ]]; then
        restorecon -F -- "$1"
    fi
}

if [[ -n $name ]]; then
    printf '%s\n' "$name" | replace /etc/hostname
    hostname "$name"
    names=$name
    if [[ ${name%%.*} != "$name" ]]; then
        names="$name ${name%%.*}"
    fi
    {
        if [[ -e /etc/hosts ]]; then
            while IFS= read -r line || [[ -n $line ]]; do
                case $line in
                127.0.1.1[[:space:]]*) ;;
                *) printf '%s\n' "$line" ;;
                esac
            done </etc/hosts
        fi
        printf '127.0.1.1\t%s\n' "$names"
    } | replace /etc/hosts
    echo "hostname $(hostname)"
fi

if ((${#keys[@]} > 0)); then
    entry=$(getent passwd "$account") || {
        echo "there is no account $account" >&2
        exit 1
    }
    IFS=: read -r _ _ uid gid _ home _ <<<"$entry"
    file=$home/.ssh/authorized_keys
    if ((uid == 0)); then
        printf '%s\n' "${keys[@]}" | change_keys "$file"
    else
        printf '%s\n' "${keys[@]}" | setpriv --reuid "$uid" --regid "$gid" --init-groups -- "$0" keys "$file"
    fi
    # sshd may not read a file with a wrong label.
    if [[ -e /sys/fs/selinux/enforce ]]; then
        restorecon -R -F -- "$home/.ssh"
    fi
fi
