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
run=/run/carreto-overhead
agent='' receiver='' loop='' bpf=''

clean() {
    [ -n "$agent" ] && kill -TERM "$agent" && wait "$agent" || true
    [ -n "$receiver" ] && kill -TERM "$receiver" && wait "$receiver" || true
    "$carreto" agent cleanup -c "$folder/agent.toml" > /dev/null 2>&1 || true
    fsfreeze -u "$folder/mnt" 2> /dev/null || true
    mountpoint -q "$folder/mnt" && umount "$folder/mnt"
    [ -n "$loop" ] && losetup -d "$loop"
    [ -n "$bpf" ] && umount /sys/fs/bpf
    rm -rf "$folder" "$run"
}
trap clean EXIT

mkdir -p "$folder/mnt"
mountpoint -q /sys/fs/bpf || { mount -t bpf bpf /sys/fs/bpf; bpf=mounted; }
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

port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$folder/receive.toml" <<T
listen = '127.0.0.1:$port'
advertise = ['127.0.0.1:$port']
state = 'receiver'
[[server]]
name = 'overhead'
[[server.disk]]
source = '$loop'
target = '$folder/target.img'
T
"$carreto" receive -c "$folder/receive.toml" > "$folder/receiver.out" &
receiver=$!
until grep -q '^listening' "$folder/receiver.out"; do sleep 0.1; done
printf "token = '%s'\ndisks = ['%s']\nrun = '%s'\n%s\n" \
    "$(sed -n 's/^token for overhead: //p' "$folder/receiver.out")" "$loop" "$run" "${MORE:-}" \
    > "$folder/agent.toml"

follow() { # starts the agent and waits until it follows the disk
    "$carreto" agent run -c "$folder/agent.toml" > /dev/null 2>> "$folder/agent.err" &
    agent=$!
    until "$carreto" agent status -c "$folder/agent.toml" 2> /dev/null \
        | grep -Eq 'state: .*(CONTINUOUS|READY)'; do
        kill -0 "$agent" || { tail "$folder/agent.err"; exit 1; }
        sleep 0.2
    done
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
        without=$(load); follow; with=$(load); leave
    else
        follow; with=$(load); leave; without=$(load)
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
