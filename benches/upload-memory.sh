#!/bin/bash
# Peak memory of an upload with default options, and the files that it writes meanwhile.
#
# usage: upload-memory.sh IMAGE [OPTION of upload...]     (default: --as qcow2 --compress zstd)
#
# Uploads IMAGE twice to a MinIO of its own: once under GNU time, and once under strace with TMPDIR
# on a full file system of 1 MiB. Fails when the peak is above LIMIT_MIB (300), or when anything
# but the checkpoint and its lock was opened for writing. Needs root, strace and GNU time; the
# MinIO that `cargo xtask e2e` built, or MINIO.
set -euo pipefail

image=${1:?usage: upload-memory.sh IMAGE [OPTION...]}
shift
[ $# -gt 0 ] || set -- --as qcow2 --compress zstd
limit=${LIMIT_MIB:-300}
target=${CARGO_TARGET_DIR:-$(cd "$(dirname "$0")/.." && pwd)/target}
carreto=${CARRETO:-$target/release/carreto}
minio=${MINIO:-$target/e2e/bin/minio}
time=$(type -P time) || { echo "error: GNU time is missing (apt-get install time)" >&2; exit 1; }
for program in strace curl python3 "$carreto" "$minio"; do
    type -P "$program" >/dev/null || { echo "error: $program is missing" >&2; exit 1; }
done
work=$(mktemp -d "${WORK:-/tmp}/carreto-bench.XXXXXX")
server=
clean() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } || true
    ! mountpoint -q "$work/full" || umount "$work/full"
    rm -rf "$work"
}
trap clean EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export AWS_ACCESS_KEY_ID=benchmark AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:$port
AWS_SECRET_ACCESS_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export AWS_SECRET_ACCESS_KEY
# MinIO takes a folder of its data for a bucket.
mkdir -p "$work/data/bench" "$work/full"
MINIO_ROOT_USER=$AWS_ACCESS_KEY_ID MINIO_ROOT_PASSWORD=$AWS_SECRET_ACCESS_KEY MINIO_BROWSER=off \
    "$minio" server --quiet --address "127.0.0.1:$port" "$work/data" >"$work/minio.log" 2>&1 &
server=$!
for ((wait = 0; wait < 300; wait++)); do
    ! curl -fso /dev/null "$AWS_ENDPOINT_URL/minio/health/cluster" || break
    sleep 0.1
done

upload() { # upload KEY OPTION...
    "${run[@]}" "$carreto" upload "$image" "s3://bench/$1" --progress none \
        --state-dir "$work/state" "${@:2}" >"$work/out"
}

run=("$time" -o "$work/time" -f '%e %M')
upload peak "$@"
read -r seconds kib <"$work/time"
peak=$((kib / 1024))
echo "upload $*: $seconds s, peak memory $peak MiB (limit $limit)"

# A temporary file would fail here, and show in the trace.
mount -t tmpfs -o size=1m tmpfs "$work/full"
dd if=/dev/zero of="$work/full/filler" bs=4k 2>/dev/null || true
echo "TMPDIR: $(df --output=avail -B1 "$work/full" | tail -1) bytes free"
run=(env "TMPDIR=$work/full" strace -f -qq -o "$work/trace"
    -e 'trace=open,openat,openat2,creat,memfd_create,socket')
upload traced "$@"
calls() { # calls PATTERN: the calls that match, without numbers of processes and results
    grep -E "$1" "$work/trace" | grep -v ENOENT | sed -E 's/^[0-9]+ +//; s/ += .*//' |
        sort | uniq -c | sed "s|$work|WORK|"
}
writing='O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|creat\(|memfd_create\('
echo "sockets:"
calls 'socket\(' || echo "    none"
echo "opened for writing:"
calls "$writing" || echo "    nothing"
others=$(grep -E "$writing" "$work/trace" | grep -v ENOENT |
    grep -vE "\"$work/state/[^\"]*\"|\"/dev/(null|tty)\"" || true)
if [ -n "$others" ]; then
    printf 'error: files that are neither checkpoint nor lock:\n%s\n' "$others" >&2
    exit 1
fi
[ "$peak" -le "$limit" ] || { echo "error: the peak is above the limit" >&2; exit 1; }
