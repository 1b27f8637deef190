#!/bin/bash
# Makes the project's own corpus: every format and subformat that qemu-img can make, of disks with
# known content, gzipped, with manifest.json.
#
# usage: tests/corpus/make.sh [OUTPUT-FOLDER]
#
# Needs qemu-img and qemu-io (at least version 7.2) and openssl. Headers carry time stamps and
# random identifiers, so the files differ from run to run; their content does not.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

OUT=$(realpath "${1:-$(dirname "$0")}")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"
: >entries

# ---- the disks ----------------------------------------------------------------------------

text() { # BYTES: numbered lines, so that every 16 bytes are like no others
    awk -v n="$1" 'BEGIN { for (i = 0; i < n; i += 16) printf "%015d\n", i }' | head -c "$1"
}

keystream() { # KEY BYTES: bytes that do not compress, the same every time
    head -c "$2" /dev/zero |
        openssl enc -aes-128-ctr -nosalt -K "$1" -iv 00000000000000000000000000000000
}

put() { # FILE OFFSET: writes what comes in there
    dd of="$1" conv=notrunc status=none oflag=seek_bytes seek="$2"
}

# 1 MiB and three sectors: no multiple of a cluster, a grain or a block.
truncate -s $((1048576 + 1536)) disk.raw
printf '\125\252' | put disk.raw 510
text 8192 | put disk.raw 4096
keystream 000102030405060708090a0b0c0d0e0f 9000 | put disk.raw 65000
head -c 65536 /dev/zero | put disk.raw 131072
text 70000 | put disk.raw $((5 * 65536 - 512))
keystream 101112131415161718191a1b1c1d1e1f 4096 | put disk.raw $((9 * 65536 + 20480))
text 1024 | put disk.raw 1048576
keystream 202122232425262728292a2b2c2d2e2f 100 | put disk.raw $((1048576 + 1436))

# Not a whole number of sectors.
head -c 300003 disk.raw >odd.raw

# What overlays add and take away.
text 40000 >patch.text
keystream 303132333435363738393a3b3c3d3e3f 3072 >patch.rnd

# ---- the manifest -------------------------------------------------------------------------

json_list() {
    local text='' item
    for item in "$@"; do text+="${text:+, }\"$item\""; done
    printf '[%s]' "$text"
}

publish() { # FILE...
    local file
    for file in "$@"; do
        [ -e "$file.gz" ] || gzip -9 -n -k "$file"
    done
}

# entry FILE QEMU-FORMAT FORMAT SUBFORMAT [EXTRA-FILE...]: records an image with the content that
# qemu-img reads from it. SNAPSHOT names an internal snapshot to read instead.
entry() {
    local file=$1 qemu=$2 format=$3 subformat=$4 snapshot=${SNAPSHOT:-} size sum
    shift 4
    rm -f content
    qemu-img convert ${snapshot:+-l snapshot.name="$snapshot"} -f "$qemu" -O raw "$file" content
    if [ "$file" = odd.raw ]; then cp odd.raw content; fi # qemu rounds up to whole sectors
    size=$(stat -c %s content)
    if [ "$size" -le 67108864 ]; then
        sum='"sha256_content": "'$(sha256sum <content | cut -d' ' -f1)'"'
    else
        sum='"sha256_nonzero64k": "'$(nonzero64k content)'"'
    fi
    printf '  {"file": "%s", "format": "%s", "subformat": "%s", "snapshot": %s, "virtual_size": %s, %s, "needs": %s}\n' \
        "$file" "$format" "$subformat" "${snapshot:+\"}${snapshot:-null}${snapshot:+\"}" \
        "$size" "$sum" "$(json_list "$@")" >>entries
    publish "$file" "$@"
}

refused() { # FILE FORMAT KIND: records an image that must be refused
    printf '  {"file": "%s", "format": "%s", "refused": "%s", "needs": []}\n' "$@" >>entries
    publish "$1"
}

# SHA-256 over, for every 64 KiB block that is not all zero, its offset (little-endian, 64 bits)
# and the block.
nonzero64k() {
    python3 - "$1" <<'PYTHON'
import hashlib, sys
digest, zero = hashlib.sha256(), bytes(65536)
with open(sys.argv[1], "rb") as file:
    offset = 0
    while block := file.read(65536):
        if block != zero[: len(block)]:
            digest.update(offset.to_bytes(8, "little") + block)
        offset += len(block)
print(digest.hexdigest())
PYTHON
}

convert() { # OUTPUT ARGUMENT...
    local output=$1
    shift
    qemu-img convert -q -f raw "$@" disk.raw "$output"
}

io() { # IMAGE QEMU-FORMAT COMMAND...
    local image=$1 format=$2 command args=()
    shift 2
    for command in "$@"; do args+=(-c "$command"); done
    qemu-io -f "$format" "${args[@]}" "$image" >/dev/null
}

# ---- raw ----------------------------------------------------------------------------------

entry disk.raw raw raw raw
entry odd.raw raw raw raw

# ---- qcow2 --------------------------------------------------------------------------------

qcow2() { # NAME VERSION OPTIONS [ARGUMENT...]
    local name=$1 version=$2 options=$3
    shift 3
    convert "$name" -O qcow2 -o "$options" "$@"
    entry "$name" qcow2 qcow2 "$version"
}

qcow2 v2.qcow2 v2 compat=0.10
qcow2 v2-zlib.qcow2 v2 compat=0.10 -c
qcow2 v3.qcow2 v3 compat=1.1
qcow2 cluster-512.qcow2 v3 cluster_size=512
qcow2 cluster-4k.qcow2 v3 cluster_size=4k
qcow2 cluster-2m.qcow2 v3 cluster_size=2M
qcow2 zlib.qcow2 v3 compression_type=zlib -c
qcow2 zlib-512.qcow2 v3 cluster_size=512 -c
qcow2 zlib-2m.qcow2 v3 cluster_size=2M -c
qcow2 zstd.qcow2 v3 compression_type=zstd -c
qcow2 zstd-4k.qcow2 v3 compression_type=zstd,cluster_size=4k -c
qcow2 extended-l2.qcow2 v3 extended_l2=on,cluster_size=64k
qcow2 extended-l2-zstd.qcow2 v3 extended_l2=on,compression_type=zstd -c
qcow2 preallocated.qcow2 v3 preallocation=metadata,cluster_size=4k
qcow2 refcount-1.qcow2 v3 refcount_bits=1
qcow2 refcount-64.qcow2 v3 refcount_bits=64

# Compressed clusters, then some of them overwritten plainly and one anew with another length.
convert mixed.qcow2 -O qcow2 -c -o cluster_size=16k
io mixed.qcow2 qcow2 "write -s patch.text 4096 40000" "write -s patch.rnd 600064 3072" \
    "write -c -P 65 81920 16384"
entry mixed.qcow2 qcow2 qcow2 v3

# Zero flags with and without a preallocated cluster, and on subclusters.
convert zero-flags.qcow2 -O qcow2 -o cluster_size=4k
io zero-flags.qcow2 qcow2 "write -z 8192 4096" "write -z -u 69632 4096" "discard 331776 8192"
entry zero-flags.qcow2 qcow2 qcow2 v3
convert extended-l2-zero.qcow2 -O qcow2 -o extended_l2=on,cluster_size=16k
io extended-l2-zero.qcow2 qcow2 "write -z 8192 1536" "write -s patch.rnd 204800 3072" \
    "write -z -u 329728 512"
entry extended-l2-zero.qcow2 qcow2 qcow2 v3

# Data clusters in a file of their own, under qcow2's and under the raw layout.
convert data-file.qcow2 -O qcow2 -o data_file=data-file.data,cluster_size=4k
entry data-file.qcow2 qcow2 qcow2 v3 data-file.data
convert data-raw.qcow2 -O qcow2 -o data_file=data-raw.data,data_file_raw=on
entry data-raw.qcow2 qcow2 qcow2 v3 data-raw.data

# A chain of three over a raw disk; the one at the bottom is shorter than the one above.
qemu-img create -q -f qcow2 -b odd.raw -F raw -o cluster_size=4k chain-1.qcow2 786432
io chain-1.qcow2 qcow2 "write -s patch.text 282624 40000" "write -z 4096 4096"
qemu-img create -q -f qcow2 -b chain-1.qcow2 -F qcow2 -o extended_l2=on,cluster_size=64k \
    chain-2.qcow2 1050112
io chain-2.qcow2 qcow2 "write -s patch.rnd 290816 3072" "write -s patch.text 900000 40000"
qemu-img create -q -f qcow2 -b chain-2.qcow2 -F qcow2 -o cluster_size=512 chain-3.qcow2
io chain-3.qcow2 qcow2 "write -z 290816 1024" "write -P 90 0 512"
entry chain-3.qcow2 qcow2 qcow2 v3 chain-2.qcow2 chain-1.qcow2 odd.raw

# Compressed clusters over a backing file, in the older version.
qemu-img create -q -f qcow2 -b disk.raw -F raw -o compat=0.10,cluster_size=4k overlay-v2.qcow2
io overlay-v2.qcow2 qcow2 "write -c -P 66 8192 4096" "write -s patch.rnd 650240 3072"
entry overlay-v2.qcow2 qcow2 qcow2 v2 disk.raw

# Internal snapshots: two older states and the active one.
convert snapshots.qcow2 -O qcow2 -o cluster_size=4k
qemu-img snapshot -q -c first snapshots.qcow2
io snapshots.qcow2 qcow2 "write -s patch.text 4096 40000"
qemu-img snapshot -q -c second snapshots.qcow2
io snapshots.qcow2 qcow2 "write -s patch.rnd 8192 3072" "write -z 65536 4096"
entry snapshots.qcow2 qcow2 qcow2 v3
SNAPSHOT=first entry snapshots.qcow2 qcow2 qcow2 v3
SNAPSHOT=second entry snapshots.qcow2 qcow2 qcow2 v3

# The dirty bit stays when the writer dies with lazy reference counts.
convert dirty.qcow2 -O qcow2 -o lazy_refcounts=on,cluster_size=4k
qemu-io -f qcow2 -c "write -s patch.rnd 700416 3072" -c abort dirty.qcow2 >/dev/null 2>&1 || true
[ "$(od -An -tu1 -j79 -N1 dirty.qcow2 | tr -d ' ')" = 1 ]
cp dirty.qcow2 dirty.keep # qemu-img repairs what it opens for writing only, but be sure
entry dirty.qcow2 qcow2 qcow2 v3
cmp dirty.qcow2 dirty.keep

# A persistent bitmap sets an autoclear bit and an extension with data of its own.
convert bitmap.qcow2 -O qcow2 -o cluster_size=4k
qemu-img bitmap --add bitmap.qcow2 changes
io bitmap.qcow2 qcow2 "write -s patch.rnd 16384 3072"
entry bitmap.qcow2 qcow2 qcow2 v3

qemu-img create -q -f qcow2 --object secret,id=s,data=carreto \
    -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 65536
refused aes.qcow2 qcow2 encrypted
qemu-img create -q -f qcow2 --object secret,id=s,data=carreto -o encrypt.format=luks \
    -o encrypt.key-secret=s,encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=cbc \
    -o encrypt.iter-time=10 luks.qcow2 65536
refused luks.qcow2 qcow2 encrypted

# ---- VHD ----------------------------------------------------------------------------------

vhd() { # NAME SUBFORMAT OPTIONS
    convert "$1" -O vpc -o "subformat=$2$3"
    entry "$1" vpc vhd "$2"
}

vhd dynamic.vhd dynamic ''
vhd dynamic-exact.vhd dynamic ,force_size=on
vhd fixed.vhd fixed ''
vhd fixed-exact.vhd fixed ,force_size=on

# ---- VMDK ---------------------------------------------------------------------------------

vmdk() { # NAME SUBFORMAT [EXTRA-FILE...]
    local name=$1 subformat=$2
    shift 2
    convert "$name" -O vmdk -o "subformat=$subformat"
    entry "$name" vmdk vmdk "$subformat" "$@"
}

vmdk sparse.vmdk monolithicSparse
vmdk stream.vmdk streamOptimized
vmdk flat.vmdk monolithicFlat flat-flat.vmdk
vmdk split-sparse.vmdk twoGbMaxExtentSparse split-sparse-s001.vmdk
vmdk split-flat.vmdk twoGbMaxExtentFlat split-flat-f001.vmdk

convert zeroed-grain.vmdk -O vmdk -o subformat=monolithicSparse,zeroed_grain=on
io zeroed-grain.vmdk vmdk "write -z 0 65536"
entry zeroed-grain.vmdk vmdk vmdk monolithicSparse

# A delta over a parent.
qemu-img create -q -f vmdk -b sparse.vmdk -F vmdk delta.vmdk
io delta.vmdk vmdk "write -s patch.text 300032 40000" "write -P 67 1048576 1536"
entry delta.vmdk vmdk vmdk monolithicSparse sparse.vmdk

# More than one extent takes more than 2 GiB of (nearly empty) disk.
qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse two-extents.vmdk 2148532224
io two-extents.vmdk vmdk "write -s patch.text 2147463648 40000" "write -s patch.rnd 2147483136 3072" \
    "write -P 68 2148531712 512" "write -P 69 0 512"
entry two-extents.vmdk vmdk vmdk twoGbMaxExtentSparse two-extents-s001.vmdk two-extents-s002.vmdk

# ---- publish ------------------------------------------------------------------------------

mkdir -p "$OUT"
rm -f "$OUT"/*.gz "$OUT/manifest.json"
cp ./*.gz "$OUT"
{
    printf '[\n'
    sed '$!s/$/,/' entries
    printf ']\n'
} >"$OUT/manifest.json"
du -bc "$OUT"/*.gz | tail -1
wc -l <entries
