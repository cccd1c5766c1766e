#!/bin/bash
# Grows the root file system to what the machine's disk has, which is as large as was ordered while its table is the template's.
#
# First a plan: a new partition table, and commands, one a line, made from what the system's tools say about its disk. The plan is checked
# and printed; then exactly these lines are run. Nothing ever shrinks or moves, and the last partition alone is grown. A layout that is
# not understood is refused by its name (exit code 81) before anything is touched. Run again, it plans what is left to do.
#
# Understood: / on ext2, ext3, ext4, xfs or btrfs, on a partition of a GPT or MBR table, or on a linear logical volume of a group with
# one physical volume, which is such a partition or a whole disk; or / right on a disk.
set -euo pipefail
umask 077
export LC_ALL=C
work=${SLIPWAY_JOB:?}/disk
mkdir -p -- "$work"
mib=1048576

refuse() {
    echo "disk: refused: $*" >&2
    exit 81
}

# number NAME VALUE: what a tool gave as a number is one, or the tool is not the one we know.
number() {
    [[ $2 =~ ^[0-9]{1,18}$ ]] || refuse "$1 is no number: '$2'"
}

# column NAME LINE prints the value of NAME="…" in a line of `lsblk -P`. util-linux 2.37 writes LOG_SEC, others LOG-SEC.
column() {
    local pattern="(^| )$1=\"([^\"]*)\""
    [[ $2 =~ $pattern ]] || return 1
    printf '%s\n' "${BASH_REMATCH[2]}"
}

# What is planned is made of these letters alone: a line of the plan needs no quotes.
safe() {
    [[ $1 =~ ^/[A-Za-z0-9/._+-]+$ ]] || refuse "the device name '$1' has letters that no device has"
}

# --- look

# -v leaves out the subvolume that btrfs has behind the device.
found=$(findmnt -n -r -v -o SOURCE,FSTYPE /) || refuse "findmnt does not say what / is on"
read -r source fstype <<<"$found"
case $source in
/*) ;;
*)
    echo "disk: / is on $source ($fstype), which is no disk of this machine's own: there is nothing to grow"
    exit 0
    ;;
esac
case $fstype in
ext2 | ext3 | ext4) grow=(resize2fs "$source") ;;
xfs) grow=(xfs_growfs /) ;;
btrfs) grow=(btrfs filesystem resize max /) ;;
*) refuse "/ is $fstype: only ext2, ext3, ext4, xfs and btrfs are understood" ;;
esac

# From the file system down to the disk, one line each.
chain=() types=() sizes=()
listed=$(lsblk -P -b -p -s -o NAME,TYPE,SIZE,LOG-SEC -- "$source") || refuse "lsblk does not know $source"
while IFS= read -r line; do
    name=$(column NAME "$line") && type=$(column TYPE "$line") && size=$(column SIZE "$line") && sector=$(column LOG.SEC "$line") ||
        refuse "lsblk said: $line"
    safe "$name"
    number "the size of $name" "$size"
    chain+=("$name") types+=("$type") sizes+=("$size")
done <<<"$listed"
layout="${types[*]}"
case $layout in
disk | "part disk" | "lvm part disk" | "lvm disk") ;;
*) refuse "/ is on '$layout' (${chain[*]}): only a partition, a logical volume on one partition or disk, or a disk is understood" ;;
esac
disk=${chain[${#chain[@]} - 1]}
disk_size=${sizes[${#sizes[@]} - 1]}
number "the sector size of $disk" "$sector"
((sector == 512 || sector == 4096)) || refuse "$disk has sectors of $sector bytes"

# --- plan

plan=()
write=0 # 1: a new table is written
gain=0  # bytes by which the partition grows in the eyes of the kernel

# plan_partition PARTITION BYTES: its table is read as sfdisk dumps it, and written anew with one number changed. BYTES is what the kernel
# has: a table that was written while nobody told the kernel is not known to it yet.
plan_partition() {
    local part=$1 known=$2 index label= line other start size end last_end
    index=${part#"$disk"}
    index=${index#p}
    [[ $index =~ ^[1-9][0-9]{0,2}$ ]] || refuse "$part is no partition of $disk by its name"
    sfdisk --dump "$disk" >"$work/table.before" || refuse "sfdisk cannot read the table of $disk"

    local pattern='^(/[^ ]+) : start= *([0-9]+), size= *([0-9]+),(.*)$'
    local own_start= own_size= own_rest= behind= wrapped=
    while IFS= read -r line; do
        case $line in
        label:*) label=${line#label: } ;;
        unit:*) [[ $line == "unit: sectors" ]] || refuse "the table of $disk has '$line'" ;;
        esac
        [[ $line =~ $pattern ]] || continue
        if [[ ${BASH_REMATCH[1]} == "$part" ]]; then
            own_start=${BASH_REMATCH[2]} own_size=${BASH_REMATCH[3]} own_rest=${BASH_REMATCH[4]}
        fi
    done <"$work/table.before"
    [[ -n $own_start ]] || refuse "the table of $disk does not have $part"
    number "the start of $part" "$own_start"
    number "the size of $part" "$own_size"
    while IFS= read -r line; do
        [[ $line =~ $pattern ]] || continue
        other=${BASH_REMATCH[1]} start=${BASH_REMATCH[2]} size=${BASH_REMATCH[3]}
        [[ $other != "$part" ]] || continue
        if ((start > own_start)); then
            behind=$other
        elif ((start + size > own_start)); then
            wrapped=$other
        fi
    done <"$work/table.before"

    # What the disk has, up to where the table's own second copy (GPT) or its 32 bits (MBR) end.
    last_end=$((disk_size / sector))
    case $label in
    gpt) last_end=$((last_end - 1 - 16384 / sector)) ;;
    dos)
        if ((last_end > 4294967295)); then
            last_end=4294967295
            echo "disk: an MBR table reaches no further than 2 TiB on $disk; the rest stays unused"
        fi
        ;;
    *) refuse "$disk has a table of type '$label': only gpt and dos are understood" ;;
    esac
    end=$((last_end * sector / mib * (mib / sector)))
    size=$((end - own_start))
    if ((size - own_size < mib / sector)); then
        echo "disk: $part reaches to the end of $disk already"
        gain=$((own_size * sector - known))
        if ((gain > 0)); then
            plan+=("partx --update --nr $index $disk")
        fi
        return 0
    fi
    [[ -z $behind ]] || refuse "$behind lies behind $part on $disk: only the last partition can be grown"
    [[ -z $wrapped ]] || refuse "$part lies inside of $wrapped: logical partitions are not understood"
    write=1
    gain=$((size * sector - known))

    while IFS= read -r line; do
        case $line in
        last-lba:*) continue ;; # sfdisk works it out for the disk as it is now
        "$part : "*) line="$part : start=$own_start, size=$size,$own_rest" ;;
        esac
        printf '%s\n' "$line"
    done <"$work/table.before" >"$work/table"
    plan+=("sfdisk --no-reread --no-tell-kernel --force $disk" "partx --update --nr $index $disk")
}

# fields COMMAND...: one line of the only row that an LVM report has, its columns separated by |.
fields() {
    local said
    said=$("$@" --noheadings --nosuffix --units b --separator '|') || refuse "$1 failed"
    said=${said#"${said%%[![:space:]]*}"}
    [[ -n $said && $said != *$'\n'* ]] || refuse "$1 does not know one row: $said"
    printf '%s\n' "$said"
}

# plan_volume PV: the physical volume takes what its device has, the logical volume what its group has.
plan_volume() {
    local pv=$1 row vg lv kind pv_name pv_size pv_start device pvs extent free
    # A dot instead of nothing at the end: read drops empty fields there.
    row=$(fields lvs -o vg_name,lv_name,lv_layout "$source")
    IFS='|' read -r vg lv kind <<<"$row"
    [[ $vg =~ ^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$ && $lv =~ ^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$ ]] || refuse "the names '$vg' and '$lv' are no volumes'"
    [[ $kind == linear ]] || refuse "the logical volume $vg/$lv is $kind: only linear ones are understood"
    row=$(fields vgs -o pv_count,vg_extent_size,vg_free "$vg")
    IFS='|' read -r pvs extent free <<<"$row"
    number "the number of disks of $vg" "$pvs"
    number "the extent size of $vg" "$extent"
    number "the free room of $vg" "$free"
    ((pvs == 1)) || refuse "volume group $vg has $pvs physical volumes: only one is understood"
    ((extent > 0)) || refuse "volume group $vg has extents of no size"
    row=$(fields pvs -o pv_name,pv_size,pe_start,dev_size "$pv")
    IFS='|' read -r pv_name pv_size pv_start device <<<"$row"
    [[ $pv_name == "$pv" ]] || refuse "the physical volume is $pv_name and not $pv"
    number "the size of $pv" "$pv_size"
    number "the start of $pv" "$pv_start"
    number "the device size of $pv" "$device"

    # A second copy of the metadata may lie at the device's end, so that one more extent is not worth a plan.
    local room=$((device + gain - pv_start - pv_size))
    if ((room >= 2 * extent)); then
        plan+=("pvresize $pv")
        free=$((free + room))
    fi
    if ((free >= 2 * extent)); then
        plan+=("lvextend -l +100%FREE $vg/$lv")
    else
        echo "disk: $vg/$lv has all of $vg already"
    fi
}

case $layout in
"part disk") plan_partition "${chain[0]}" "${sizes[0]}" ;;
"lvm part disk")
    plan_partition "${chain[1]}" "${sizes[1]}"
    plan_volume "${chain[1]}"
    ;;
"lvm disk") plan_volume "${chain[1]}" ;;
esac
# The file system's own tool compares, and does nothing when it has all of its device already.
plan+=("${grow[*]}")

# --- check

for line in "${plan[@]}"; do
    command -v "${line%% *}" >/dev/null || refuse "the plan needs ${line%% *}, which is not installed: put it into the template"
done
if ((write)); then
    # sfdisk says whether it would take the table, and writes nothing.
    sfdisk --no-act --no-reread --no-tell-kernel --force "$disk" <"$work/table" >"$work/checked" 2>&1 || {
        cat -- "$work/checked" >&2
        refuse "sfdisk does not take the new table of $disk"
    }
fi

# --- print

if ((write)); then
    echo "disk: the table of $disk before:"
    cat -- "$work/table.before"
    echo "disk: the table of $disk that is planned:"
    cat -- "$work/table"
fi
for line in "${plan[@]}"; do
    echo "disk: plan: $line"
done

# --- run

for line in "${plan[@]}"; do
    read -r -a words <<<"$line"
    echo "disk: run: $line"
    if [[ ${words[0]} == sfdisk ]]; then
        "${words[@]}" <"$work/table"
    else
        "${words[@]}" </dev/null
    fi
done

if ((gain > 0)); then
    # The kernel has to believe it too, else what is on top has grown into nothing.
    part=${chain[${#chain[@]} - 2]}
    now=$(lsblk -P -b -p -d -o NAME,SIZE -- "$part")
    now=$(column SIZE "$now") || now=
    number "the new size of $part" "$now"
    if ((now < sizes[${#sizes[@]} - 2] + gain)); then
        echo "disk: $part has $now bytes and not $gain more than before" >&2
        exit 1
    fi
fi
echo "disk: done"
