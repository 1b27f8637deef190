#!/bin/bash
# What the agent costs a busy source: random writes of 4 KiB by fio on a loop disk with ext4, in
# turns without the agent and while it follows the disk, and the agent's memory. Needs root, a
# built carreto, fio, and 3 GiB in FOLDER. The target is a file beside the disk, so both share the
# device below: the ratio is what a source sees whose target is as slow as itself, or better.
#
# usage: live-overhead.sh CARRETO FOLDER [ROUNDS]     (PAUSED=1: what following alone costs)
set -euo pipefail
carreto=$(realpath "${1:?usage: live-overhead.sh CARRETO FOLDER [ROUNDS]}")
folder=$(realpath "${2:?a folder is needed}")/live-overhead
rounds=${3:-5}
seconds=${SECONDS_EACH:-8}
server=overhead
# shellcheck source=live-common.sh
source "$(dirname "$0")/live-common.sh"

leave_system() {
    fsfreeze -u "$folder/mnt" || true
    umount "$folder/mnt"
}

begin
mkdir -p "$folder/mnt"
truncate -s 1G "$folder/source.img"
loop=$(losetup --find --show --direct-io=on "$folder/source.img")
mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$loop"
mount "$loop" "$folder/mnt"

load() { # prints the writes per second
    fio --name=load --filename="$folder/mnt/file" --rw=randwrite --bs=4k --size=256m --iodepth=16 \
        --ioengine=libaio --direct=1 --time_based --runtime="$seconds" --refill_buffers \
        --output-format=json | python3 -c 'import json, sys
print(round(json.load(sys.stdin)["jobs"][0]["write"]["iops"]))'
}

load > /dev/null # the file is laid out, and what is allocated stays so

receive "$(free_address)"

follow_only() {
    follow
    # Changes are still followed, and nothing is read or sent.
    [ -z "${PAUSED:-}" ] || "$carreto" agent pause -c "$folder/agent.toml" > /dev/null
}

leave() { # ends the agent and its tracker: nothing is counted any more
    grep -E 'VmHWM' "/proc/$agent/status"
    kill -TERM "$agent"
    wait "$agent" || true
    agent=''
    rm -rf /sys/fs/bpf/carreto/overhead
}

for round in $(seq "$rounds"); do
    if [ $((round % 2)) = 1 ]; then
        without=$(load); follow_only; with=$(load); leave
    else
        follow_only; with=$(load); leave; without=$(load)
    fi
    echo "round $round: $without writes/s without, $with with the agent"
    echo "$without $with" >> "$folder/rounds"
done
python3 - "$folder/rounds" <<'P'
import statistics, sys
pairs = [tuple(map(int, line.split())) for line in open(sys.argv[1])]
ratios = [b / a for a, b in pairs]
print(f"with / without: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
P
