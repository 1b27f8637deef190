# Runs inside a guest: copies the system that runs there onto the disks of the layout $LAYOUT, with
# a boot loader of their own.
set -euo pipefail
export LC_ALL=C

disk() { readlink -f "/dev/disk/by-id/virtio-disk$1"; }
part() { echo "$(disk "$1")$2"; }
uuid() { blkid -c /dev/null -s UUID -o value "$1"; }
fstab() { echo "UUID=$(uuid "$1") $2 $3 $4 0 $5" >>/run/fstab; }

clone() { # clone DEVICE: the root that runs, which nothing writes to, as a file system of its own.
    mount -o remount,ro /
    dd if=/dev/disk/by-id/virtio-scratch of="$1" bs=1M iflag=direct conv=sparse status=none
    e2fsck -fy "$1" >/run/e2fsck.log || [ $? -eq 1 ] || cat /run/e2fsck.log
    tune2fs -U random -L '' "$1" >/run/tune2fs.log
    resize2fs "$1" 2>/run/resize2fs.log
}

plain() { # One disk, one partition.
    echo 'start=1MiB, type=83, bootable' | sfdisk --quiet --label dos "$(disk 0)"
    udevadm settle
    clone "$(part 0 1)"
    mount "$(part 0 1)" /mnt/new
    fstab "$(part 0 1)" / ext4 errors=remount-ro 1
    GRUB_DISKS=$(disk 0)
}

lvm() { # The root on a logical volume, and a second disk of data.
    printf 'start=1MiB, size=256MiB, type=83, bootable\ntype=8e\n' |
        sfdisk --quiet --label dos "$(disk 0)"
    printf 'start=1MiB\n' | sfdisk --quiet --label gpt "$(disk 1)"
    udevadm settle
    pvcreate -q "$(part 0 2)"
    vgcreate -q system "$(part 0 2)"
    lvcreate -q -n root -l 95%FREE system
    clone /dev/system/root
    mkfs.ext4 -q "$(part 0 1)"
    mkfs.xfs -q "$(part 1 1)"
    mount /dev/system/root /mnt/new
    mount "$(part 0 1)" /mnt/boot
    mv /mnt/new/boot/* /mnt/boot/
    umount /mnt/boot
    mkdir /mnt/new/data
    mount "$(part 0 1)" /mnt/new/boot
    mount "$(part 1 1)" /mnt/new/data
    echo '/dev/mapper/system-root / ext4 errors=remount-ro 0 1' >>/run/fstab
    fstab "$(part 0 1)" /boot ext4 defaults 2
    fstab "$(part 1 1)" /data xfs defaults 0
    GRUB_DISKS=$(disk 0)
}

raid() { # A mirror of two disks.
    for index in 0 1; do
        echo 'start=1MiB, type=fd, bootable' | sfdisk --quiet --label dos "$(disk $index)"
    done
    udevadm settle
    # Both are blank, so they are equal.
    mdadm --quiet --create /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 --bitmap=internal \
        --homehost=any --assume-clean --run "$(part 0 1)" "$(part 1 1)"
    udevadm settle
    mkfs.btrfs -q /dev/md0
    mount /dev/md0 /mnt/new
    mount --bind / /mnt/old
    cp -a /mnt/old/. /mnt/new/
    fstab /dev/md0 / btrfs defaults 0
    GRUB_DISKS="$(disk 0) $(disk 1)"
}

# The root may become read-only.
mount -t tmpfs none /mnt
mkdir /mnt/boot /mnt/new /mnt/old
: >/run/fstab
"$LAYOUT"
cp /run/fstab /mnt/new/etc/fstab
echo "$HOST_NAME" >/mnt/new/etc/hostname
echo "127.0.0.1 localhost $HOST_NAME" >/mnt/new/etc/hosts
: >/mnt/new/etc/machine-id
for folder in dev proc sys run; do
    mount --bind /$folder /mnt/new/$folder
done
if [ "$LAYOUT" = raid ]; then
    mdadm --detail --scan >>/mnt/new/etc/mdadm/mdadm.conf
    # Emulation takes minutes for the usual level.
    echo COMPRESSLEVEL=1 >/mnt/new/etc/initramfs-tools/conf.d/level
    chroot /mnt/new update-initramfs -u
fi
for device in $GRUB_DISKS; do
    chroot /mnt/new grub-install --target=i386-pc "$device"
done
chroot /mnt/new update-grub
umount /mnt/new/dev /mnt/new/proc /mnt/new/sys /mnt/new/run
fstrim -a || true
umount -R /mnt/new
[ "$LAYOUT" != lvm ] || vgchange -q -an system
[ "$LAYOUT" != raid ] || mdadm --quiet --stop /dev/md0
sync
