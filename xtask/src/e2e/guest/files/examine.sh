# Runs inside a guest that was booted past the disks of the layout $LAYOUT: none of their file
# systems may need a repair.
set -euo pipefail
export LC_ALL=C

disk() { readlink -f "/dev/disk/by-id/virtio-disk$1"; }
part() { echo "$(disk "$1")$2"; }

plain() {
    e2fsck -fn "$(part 0 1)"
}

lvm() {
    vgchange -q -ay system
    udevadm settle
    e2fsck -fn "$(part 0 1)"
    e2fsck -fn /dev/system/root
    xfs_repair -n "$(part 1 1)"
}

raid() {
    mdadm --quiet --assemble --scan || true
    udevadm settle
    local array
    array=$(ls /dev/md?* | grep -v '^/dev/md$' | head -n 1)
    mdadm --detail "$array" | grep -q 'Active Devices : 2'
    btrfs check --readonly "$array"
}

"$LAYOUT" 2>&1
