#!/bin/bash
# Ratios of `qemu-img convert` to `carreto migrate` for one disk in every format.
#
# usage: against-qemu.sh DISKS [RUNS]
set -euo pipefail

disks=${1:?usage: against-qemu.sh DISKS [RUNS]}
runs=${2:-5}
carreto=${CARRETO:-$(cd "$(dirname "$0")/.." && pwd)/target/release/carreto}
work=$(mktemp -d /dev/shm/carreto-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT

ours() { # ours IMAGE [OPTION...]: the command that migrates IMAGE
    echo "rm -f $work/ours.raw; $carreto migrate $1 $work/ours.raw --progress none --state-dir $work/state ${*:2}"
}

peer() { # peer FORMAT IMAGE [OPTION...]: the command that converts IMAGE
    echo "rm -f $work/peer.raw; qemu-img convert ${*:3} -f $1 -O raw $2 $work/peer.raw"
}

median() { # median JSON INDEX: seconds
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["results"][int(sys.argv[2])]["median"])' "$1" "$2"
}

printf '%-16s %8s %8s %7s %8s %9s\n' image ours peer ratio verified 'peak MiB'
bench() { # bench NAME FORMAT [OPTION of the peer...]
    local image=$disks/$1 own other
    own=$(ours "$image" --verify none)
    other=$(peer "$2" "$image" "${@:3}")
    bash -c "$own" >/dev/null
    bash -c "$other"
    cmp "$work/ours.raw" "$work/peer.raw"
    rm -f "$work"/*.raw
    hyperfine --style none --shell bash --warmup 1 --runs "$runs" --export-json "$work/out.json" \
        "$own" "$other" "$(ours "$image")" >/dev/null 2>&1
    command time -f %M -o "$work/memory" bash -c "$own" >/dev/null
    python3 - "$1" "$(median "$work/out.json" 0)" "$(median "$work/out.json" 1)" \
        "$(median "$work/out.json" 2)" "$(cat "$work/memory")" <<'P'
import sys
name, ours, peer, full, memory = sys.argv[1], *map(float, sys.argv[2:])
print(f"{name:16} {ours:7.2f}s {peer:7.2f}s {peer / ours:6.2f}x {full / ours:7.2f}x {memory / 1024:9.0f}")
P
}

bench os.raw raw
bench os.qcow2 qcow2
bench os.zlib.qcow2 qcow2 -m 16 -W
bench os.zstd.qcow2 qcow2 -m 16 -W
bench os.dyn.vhd vpc
bench os.sparse.vmdk vmdk
bench os.stream.vmdk vmdk
