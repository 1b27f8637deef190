#!/bin/bash
# What memory the agent takes for a large disk: SIZE of zeros with DATA MiB of random bytes spread
# over it, on a loop device, read once and then followed. What is kept is 32 bytes for each 64 KiB
# that is not zero, so a disk full of data takes 512 MiB more for each TiB. Needs root, a built
# carreto, and space in FOLDER for twice the data.
#
# usage: live-memory.sh CARRETO FOLDER     (SIZE=1T DATA=1024)
set -euo pipefail
usage="usage: live-memory.sh CARRETO FOLDER"
carreto=$(realpath "${1:?$usage}")
folder=$(realpath "${2:?$usage}")/live-memory
server=memory
# shellcheck source=live-common.sh
source "$(dirname "$0")/live-common.sh"

begin
truncate -s "${SIZE:-1T}" "$folder/source.img"
python3 - "$folder/source.img" "${DATA:-1024}" << 'P'
import os, sys

path, count = sys.argv[1], int(sys.argv[2])
disk = os.open(path, os.O_WRONLY)
step = os.stat(path).st_size // count
for index in range(count):
    os.pwrite(disk, os.urandom(1 << 20), index * step // (1 << 20) * (1 << 20))
P
loop=$(losetup --find --show --direct-io=on "$folder/source.img")
receive "$(free_address)"
begun=$(date +%s)
follow
echo "read once in $(($(date +%s) - begun)) s"
for who in agent receiver; do
    echo "$who: $(grep -E 'VmHWM|VmRSS' "/proc/${!who}/status" | tr -s '\t \n' ' ')"
done
