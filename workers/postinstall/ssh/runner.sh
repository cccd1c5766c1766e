# The guest's side of a detached job. It is sent as the argument of `bash -c` with every command, so nothing has to be installed first
# and an old copy cannot linger; it holds no parameters and no secrets.
#
#   upload ID     a tar of the job on stdin becomes /var/lib/slipway/jobs/ID in one rename; does nothing when that is there
#   start ID      runs the job in a session of its own, once, whoever asks and however often
#   observe ID N  one line of state, then the log from byte N on (bounded)
#   inspect       runs the checks of the newest job that succeeded, and prints the machine id
#   leave         takes the key on stdin's first line out of the login user's authorized_keys, and the jobs off the disk; a script that
#                 follows stays as /usr/local/lib/slipway/maintain, the only thing that the key is then good for
#
# In a job's folder: env, files/, secrets/, scripts/, steps ("NAME SECONDS" lines), claim ("PID START BOOT" of its one process), log,
# stage, done.NAME, exit (the code, written once at the end).
#
# Exit codes of its own: 64 wrong use, 65 the job is not there, 75 another job still runs.
set -euo pipefail
umask 077
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
base=/var/lib/slipway/jobs
verb=${1:-}
id=${2:-}
dir=$base/$id

# alive CLAIM: is any process of the claim's session left? A claim is made after its process exists, so an unreadable one was cut off by
# a crash of the whole machine. Another boot has other processes. Within one boot the kernel gives a pid to nobody else while it still
# names a session, so a pid with another start time means that its session is over.
alive() {
    local pid= start= boot= now= stat= file field
    read -r pid start boot <"$1" || true
    read -r now </proc/sys/kernel/random/boot_id
    [[ -n $boot && $boot == "$now" ]] || return 1
    if { read -r stat <"/proc/$pid/stat"; } 2>/dev/null; then
        # After the name in parentheses: state, ppid, pgrp, session (3, from 0), … start time (19).
        read -r -a field <<<"${stat##*) }"
        [[ ${field[19]:-} == "$start" ]] || return 1
        [[ ${field[0]:-} == Z ]] || return 0
    fi
    for file in /proc/[0-9]*/stat; do
        { read -r stat <"$file"; } 2>/dev/null || continue
        read -r -a field <<<"${stat##*) }"
        if [[ ${field[3]:-} == "$pid" && ${field[0]:-} != Z ]]; then
            return 0
        fi
    done
    return 1
}

upload() {
    if [[ -d $dir ]]; then
        cat >/dev/null
        return 0
    fi
    mkdir -p "$base"
    chmod 700 /var/lib/slipway "$base"
    # A dot, so that it is never taken for a job. It is this upload's alone: nobody else may clear it away, for it may be on its way to
    # become the job.
    part=$base/.part.$RANDOM$RANDOM
    mkdir "$part"
    trap 'rm -rf "$part"' EXIT
    tar -x -f - -C "$part"
    # The last file of the archive: without it the connection broke between two files, which tar does not call an error.
    if [[ ! -e $part/complete ]]; then
        echo "the archive is cut off" >&2
        return 1
    fi
    # rename(2) puts no folder over one that has files: of two uploads one wins.
    mv -T "$part" "$dir" 2>/dev/null || [[ -d $dir ]]
}

start() {
    local other i
    if [[ ! -d $dir ]]; then
        echo "job $id was not uploaded" >&2
        return 65
    fi
    if [[ -e $dir/claim || -e $dir/exit ]]; then
        return 0
    fi
    for other in "$base"/*/claim; do
        if [[ -e $other && ! -e ${other%/claim}/exit ]] && alive "$other"; then
            other=${other%/claim}
            echo "job ${other##*/} still runs" >&2
            return 75
        fi
    done
    setsid bash -c "$BASH_EXECUTION_STRING" slipway job "$id" </dev/null >>"$dir/log" 2>&1 &
    # The answer says that it has begun, not that somebody will try.
    for ((i = 0; i < 100; i++)); do
        if [[ -e $dir/claim ]]; then
            return 0
        fi
        sleep 0.1
    done
    echo "job $id did not begin within 10 s" >&2
    return 1
}

job() {
    local stat field pid boot name seconds code=0
    cd "$dir"
    read -r stat </proc/self/stat
    read -r boot </proc/sys/kernel/random/boot_id
    pid=${stat%% *}
    read -r -a field <<<"${stat##*) }"
    printf '%s %s %s\n' "$pid" "${field[19]:-}" "$boot" >"claim.$pid"
    # link(2) makes the claim with its text or not at all: of two starters one runs the job.
    if ! ln "claim.$pid" claim 2>/dev/null; then
        rm -f "claim.$pid"
        return 0
    fi
    rm -f "claim.$pid"
    export SLIPWAY_JOB=$dir

    while read -r name seconds; do
        if [[ -e done.$name ]]; then
            continue
        fi
        echo "$name" >stage
        echo "== $name"
        timeout -k 10 "$seconds" bash "scripts/$name" </dev/null || code=$?
        if ((code != 0)); then
            if ((code == 124 || code == 137)); then
                echo "== $name took longer than ${seconds}s or was killed"
            fi
            echo "== $name failed with exit code $code"
            break
        fi
        : >"done.$name"
    done <steps
    if ((code == 0)); then
        rm -rf secrets
        echo "== done"
    fi
    sync
    echo "$code" >exit.new
    mv -f exit.new exit
}

observe() {
    local offset=$1 state=unknown code=0 stage=- size=0
    if [[ -e $dir/exit ]]; then
        state=exited
    elif [[ -e $dir/claim ]]; then
        state=running
        # It may have ended between the two looks.
        if ! alive "$dir/claim"; then
            state=lost
            if [[ -e $dir/exit ]]; then
                state=exited
            fi
        fi
    fi
    if [[ $state == exited ]]; then
        read -r code <"$dir/exit"
    fi
    if [[ -s $dir/stage ]]; then
        read -r stage <"$dir/stage" || true
    fi
    # The state first, then the log: what is read of a finished job is all of it.
    echo "state=$state exit=$code stage=$stage"
    if [[ -e $dir/log ]]; then
        { tail -c "+$((offset + 1))" "$dir/log" || true; } | head -c 65536
    fi
}

inspect() {
    local exit newest= code=
    for exit in "$base"/*/exit; do
        [[ -e $exit ]] || continue
        read -r code <"$exit"
        if [[ $code == 0 && (-z $newest || $exit -nt $newest/exit) ]]; then
            newest=${exit%/exit}
        fi
    done
    if [[ -z $newest ]]; then
        echo "no job has succeeded here" >&2
        return 65
    fi
    local identity=
    read -r identity </etc/machine-id || true
    echo "identity=$identity"
    cd "$newest"
    SLIPWAY_JOB=$newest timeout -k 10 120 bash scripts/checks </dev/null || true
}

leave() {
    local key line account user=${SUDO_USER:-root} home uid gid file script maintain=/usr/local/lib/slipway/maintain
    read -r key
    script=$(cat; echo .) # the dot keeps the last newline
    script=${script%.}
    account=$(getent passwd "$user")
    IFS=: read -r _ _ uid gid _ home _ <<<"$account"
    file=$home/.ssh/authorized_keys
    if [[ -e $file ]]; then
        while IFS= read -r line || [[ -n $line ]]; do
            if [[ " $line " != *" $key "* ]]; then
                printf '%s\n' "$line"
            fi
        done <"$file" >"$file.slipway"
        if [[ -n $script ]]; then
            mkdir -p "${maintain%/*}"
            chmod 755 "${maintain%/*}"
            printf '%s' "$script" >"$maintain.new"
            chmod 755 "$maintain.new"
            mv -f "$maintain.new" "$maintain"
            printf 'restrict,command="%s%s" %s slipway\n' "${SUDO_USER:+sudo -n }" "$maintain" "$key" >>"$file.slipway"
        fi
        chown "$uid:$gid" "$file.slipway"
        mv -f "$file.slipway" "$file"
    fi
    rm -rf /var/lib/slipway
}

case $verb in
upload | start | observe | job)
    if [[ ! $id =~ ^[a-z0-9][a-z0-9-]*$ ]]; then
        echo "job id is not made of lower-case letters, digits and dashes" >&2
        exit 64
    fi
    "$verb" "${3:-}"
    ;;
inspect | leave) "$verb" ;;
*)
    echo "unknown verb" >&2
    exit 64
    ;;
esac
