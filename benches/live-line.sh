#!/bin/bash
# How fast a disk moves online over a line of 100 Mbit/s: IMAGE (raw) as the disk of a server in a
# network namespace, its link shaped by tbf in both directions. Prints the seconds from the start of
# the agent to the commit, both ends having read and compared everything, what crossed the line, and
# MB/s of the disk and of the data on it. Needs root, iproute2 and a built carreto; the target takes
# as much space in FOLDER as the data of IMAGE.
#
# usage: live-line.sh CARRETO IMAGE FOLDER     (RATE=100mbit)
set -euo pipefail
usage="usage: live-line.sh CARRETO IMAGE FOLDER"
carreto=$(realpath "${1:?$usage}")
image=$(realpath "${2:?$usage}")
folder=$(realpath "${3:?$usage}")/live-line
rate=${RATE:-100mbit}
server=line
net=carreto-line
# shellcheck source=live-common.sh
source "$(dirname "$0")/live-common.sh"

leave_system() {
    ip netns del "$net"
    ip link del hline || true
}

begin
loop=$(losetup --find --show --read-only --direct-io=on "$image")

ip netns add "$net"
ip link add hline type veth peer name sline netns "$net"
ip addr add 10.213.250.1/24 dev hline
ip link set hline up
ip -n "$net" addr add 10.213.250.2/24 dev sline
ip -n "$net" link set sline up
tc qdisc add dev hline root tbf rate "$rate" burst 256kb latency 30ms
tc -n "$net" qdisc add dev sline root tbf rate "$rate" burst 256kb latency 30ms

MORE=$'[cutover]\nwhen = \'ready\'\nmax_pause_seconds = 300'
receive 10.213.250.1:7443 --until-committed

begun=$(date +%s.%N)
nsenter --net="/run/netns/$net" "$carreto" agent run -c "$folder/agent.toml" \
    > "$folder/agent.out" 2>&1 || { tail "$folder/agent.out"; exit 1; }
ended=$(date +%s.%N)
wait "$receiver"
receiver=''
cmp "$image" "$folder/target.img"
"$carreto" agent status -c "$folder/agent.toml" --output json > "$folder/report.json"
python3 - "$folder/report.json" "$begun" "$ended" "$image" "$rate" << 'P'
import json, os, sys

report, begun, ended, image, rate = sys.argv[1:]
totals = json.load(open(report))["totals"]
seconds = float(ended) - float(begun)
disk = os.stat(image)
data = disk.st_blocks * 512
print(
    f"{seconds:.1f} s over {rate}: {totals['wire_bytes'] / 1e6:.1f} MB on the wire "
    f"({totals['wire_bytes'] / seconds / 1e6:.2f} MB/s), "
    f"{disk.st_size / seconds / 1e6:.1f} MB/s of disk, {data / seconds / 1e6:.1f} MB/s of data "
    f"({data / 1e6:.0f} MB); the target is equal"
)
P
