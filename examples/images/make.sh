#!/bin/bash
# Makes tiny-linux.{qcow2,vhd,vmdk}: one small Linux disk in three formats.
#
# usage: examples/images/make.sh [OUTPUT-FOLDER]
#
# Needs sfdisk, mke2fs and debugfs (e2fsprogs), openssl, qemu-img. Needs no root: the file system
# is filled by debugfs, never mounted. The content of the disk and the qcow2 file come out
# identical every time; the VHD and the VMDK carry a time stamp and random identifiers.
set -euo pipefail
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"
umask 022

OUT=$(realpath "${1:-$(dirname "$0")}")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# All data lies in the first 2 MiB, so that the VHD needs a single block.
DISK=$WORK/tiny-linux.raw
DISK_SECTORS=131072 # 64 MiB
PART_START=128
PART_SECTORS=$((DISK_SECTORS - PART_START))

# The one point in time that everything is dated to, for every version of e2fsprogs.
export SOURCE_DATE_EPOCH=1767225600 E2FSPROGS_FAKE_TIME=1767225600

keystream() { # KEY BYTES: bytes that do not compress, the same every time
    head -c "$2" /dev/zero |
        openssl enc -aes-128-ctr -nosalt -K "$1" -iv 00000000000000000000000000000000
}

fill_folder() {
    mkdir -p "$WORK/f"
    cd "$WORK/f"
    cat >os-release <<'TEXT'
NAME="Tiny Linux"
ID=tiny-linux
VERSION_ID=1
PRETTY_NAME="Tiny Linux (example disk of Carreto)"
HOME_URL="https://github.com/carreto/carreto"
TEXT
    echo tiny >hostname
    printf '127.0.0.1 localhost\n127.0.1.1 tiny\n' >hosts
    echo 'UUID=c0ffee00-0000-4000-8000-000000000001 / ext4 defaults 0 1' >fstab
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >passwd
    printf 'This disk holds files and a file system, but nothing that runs.\n' >motd
    awk 'BEGIN { for (i = 0; i < 6000; i++)
        printf "2026-01-01T00:%02d:%02dZ tiny app[%d]: request %d took %d ms\n",
            i / 60 % 60, i % 60, i % 97, i, i * 7919 % 1000 }' >app.log
    keystream 000102030405060708090a0b0c0d0e0f 262144 >media.bin
    truncate -s 8M sparse.img
    printf 'the first bytes' | dd of=sparse.img conv=notrunc status=none
    printf 'the last bytes' | dd of=sparse.img conv=notrunc status=none \
        oflag=seek_bytes seek=$((8 * 1024 * 1024 - 14))
    chmod 644 ./*
    cd - >/dev/null
}

make_file_system() { # FILE
    truncate -s $((PART_SECTORS * 512)) "$1"
    mke2fs -q -F -t ext4 -b 4096 -N 64 -m 0 -L tiny-root \
        -U c0ffee00-0000-4000-8000-000000000001 \
        -O '^has_journal,^resize_inode' \
        -E 'hash_seed=c0ffee00-0000-4000-8000-000000000002,lazy_itable_init=0,nodiscard,root_owner=0:0' \
        "$1"
    (
        cd "$WORK/f"
        debugfs -w -f /dev/stdin "$1" <<'COMMANDS' >"$WORK/debugfs.log" 2>&1
mkdir etc
mkdir home
mkdir root
mkdir usr
mkdir usr/lib
mkdir usr/bin
mkdir var
mkdir var/log
mkdir var/lib
write os-release usr/lib/os-release
symlink etc/os-release ../usr/lib/os-release
symlink bin usr/bin
write hostname etc/hostname
write hosts etc/hosts
write fstab etc/fstab
write passwd etc/passwd
write motd etc/motd
write app.log var/log/app.log
ln var/log/app.log var/log/app.log.1
sif var/log/app.log links_count 2
write media.bin var/lib/media.bin
write sparse.img var/lib/sparse.img
COMMANDS
    )
    # e2fsck ends 0 only when there is nothing at all to repair.
    e2fsck -f -n "$1" >"$WORK/e2fsck.log" 2>&1 || {
        cat "$WORK/debugfs.log" "$WORK/e2fsck.log" >&2
        exit 1
    }
}

make_disk() {
    truncate -s $((DISK_SECTORS * 512)) "$DISK"
    sfdisk -q "$DISK" <<TABLE
label: dos
label-id: 0xc0ffee01
start=$PART_START, size=$PART_SECTORS, type=83, bootable
TABLE
    make_file_system "$WORK/part"
    dd if="$WORK/part" of="$DISK" bs=64K oflag=seek_bytes seek=$((PART_START * 512)) \
        conv=notrunc,sparse status=none
}

convert() { # FORMAT SUFFIX OPTION...
    local format=$1 suffix=$2
    shift 2
    qemu-img convert -f raw -O "$format" "$@" "$DISK" "$OUT/tiny-linux.$suffix"
    qemu-img convert -f "$format" -O raw "$OUT/tiny-linux.$suffix" "$WORK/back"
    cmp "$DISK" "$WORK/back"
}

fill_folder
make_disk
convert qcow2 qcow2 -c -o compression_type=zstd
convert vpc vhd -o subformat=dynamic,force_size=on
convert vmdk vmdk -o subformat=streamOptimized
(
    cd "$WORK" && sha256sum tiny-linux.raw
    cd "$OUT" && sha256sum tiny-linux.qcow2 tiny-linux.vhd tiny-linux.vmdk
) >"$OUT/SHA256SUMS"
ls -l "$OUT"
cat "$OUT/SHA256SUMS"
