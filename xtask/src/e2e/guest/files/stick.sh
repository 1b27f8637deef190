# A stick with vfat, the guest's second disk: files are written to it in a ring until the end, and
# each of them says which one it is.
set -euo pipefail
export LC_ALL=C

DISK=/dev/disk/by-id/virtio-disk1
RING=200

write() {
    local n=0
    while [ ! -e /run/stick.stop ]; do
        n=$((n + 1))
        seq -f "$n %g" 2000 >/stick/file$((n % RING))
        sync /stick/file$((n % RING))
        echo $n >/run/stick.last
        sleep 0.5
    done
}

case $1 in
begin)
    mkdir -p /stick
    mount -t vfat "$DISK" /stick
    rm -f /stick/* /run/stick.stop
    systemd-run --quiet --unit=stick bash /run/stick.sh write
    ;;
write)
    write
    ;;
end)
    touch /run/stick.stop
    while systemctl --quiet is-active stick; do sleep 0.2; done
    cp /run/stick.last /stick/last
    sync -f /stick/last
    ;;
check)
    mkdir -p /stick
    mount -t vfat -o ro "$DISK" /stick
    last=$(cat /stick/last)
    count=0
    for file in /stick/file*; do
        n=$(head -n 1 "$file" | cut -d ' ' -f 1)
        [ "$file" = /stick/file$((n % RING)) ]
        [ "$n" -le "$last" ]
        [ "$n" -gt $((last - RING)) ]
        seq -f "$n %g" 2000 | cmp - "$file"
        count=$((count + 1))
    done
    [ "$count" = $((last < RING ? last : RING)) ]
    umount /stick
    echo "the last $count of $last files"
    ;;
esac
