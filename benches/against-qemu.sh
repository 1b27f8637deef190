#!/bin/bash
# Ratios of `qemu-img convert` to `carreto migrate` for one disk in every format.
#
# usage: against-qemu.sh DISKS [ROUNDS]
#
# A round runs ours, the peer and ours with verification, one after the other, so that a machine
# that becomes slower or faster meanwhile does so for all of them. What is printed are medians.
set -euo pipefail

disks=${1:?usage: against-qemu.sh DISKS [ROUNDS]}
rounds=${2:-5}
carreto=${CARRETO:-$(cd "$(dirname "$0")/.." && pwd)/target/release/carreto}
time=$(type -P time) || { echo "error: GNU time is missing (apt-get install time)" >&2; exit 1; }
work=$(mktemp -d /dev/shm/carreto-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT

ours() { # ours IMAGE [OPTION...]
    "${measure[@]}" "$carreto" migrate "$1" "$work/ours.raw" --progress none \
        --state-dir "$work/state" "${@:2}" >/dev/null
}

peer() { # peer FORMAT IMAGE [OPTION...]
    "${measure[@]}" qemu-img convert "${@:3}" -f "$1" -O raw "$2" "$work/peer.raw"
}

measured() { # measured NAME COMMAND...: adds wall, user and system seconds and peak KiB to NAME
    rm -f "$work"/*.raw
    measure=("$time" -a -o "$work/$1" -f '%e %U %S %M')
    "${@:2}"
}

medians() { # medians NAME
    python3 - "$1" "$work" <<'P'
import pathlib, statistics, sys
name, work = sys.argv[1], pathlib.Path(sys.argv[2])
def read(of):
    rows = [list(map(float, line.split())) for line in (work / of).read_text().splitlines()]
    wall, user, system, memory = zip(*rows)
    cpu = [u + s for u, s in zip(user, system)]
    return statistics.median(wall), statistics.median(cpu), max(memory) / 1024
(ours, our_cpu, memory), (peer, peer_cpu, _), (full, _, _) = map(read, ("ours", "peer", "full"))
ratio = lambda a, b: f"{a / b:6.2f}x" if b else "      -"
print(f"{name:16} {ours:7.2f}s {peer:7.2f}s {ratio(peer, ours)} {ratio(full, ours):>9}"
      f" {our_cpu:7.2f}s {peer_cpu:7.2f}s {memory:9.0f}")
P
}

bench() { # bench NAME FORMAT [OPTION of the peer...]
    local image=$disks/$1 round
    measure=()
    rm -rf "${work:?}"/*
    ours "$image" --verify none
    peer "$2" "$image" "${@:3}"
    cmp "$work/ours.raw" "$work/peer.raw"
    for ((round = 0; round < rounds; round++)); do
        measured ours ours "$image" --verify none
        measured peer peer "$2" "$image" "${@:3}"
        measured full ours "$image"
    done
    medians "$1"
}

printf '%-16s %8s %8s %7s %9s %8s %8s %9s\n' \
    image ours peer ratio verified 'our CPU' 'its CPU' 'peak MiB'
bench os.raw raw
bench os.qcow2 qcow2
bench os.zlib.qcow2 qcow2 -m 16 -W
bench os.zstd.qcow2 qcow2 -m 16 -W
bench os.dyn.vhd vpc
bench os.sparse.vmdk vmdk
bench os.stream.vmdk vmdk
