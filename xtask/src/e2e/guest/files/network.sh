# Gives the one network card the address that QEMU expects.
set -euo pipefail

for _ in $(seq 600); do
    cards=(/sys/class/net/e*)
    [ ! -e "${cards[0]}" ] || break
    sleep 0.1
done
card=${cards[0]##*/}
ip link set lo up
ip link set "$card" up
ip address replace 10.0.2.15/24 dev "$card"
ip route replace default via 10.0.2.2
