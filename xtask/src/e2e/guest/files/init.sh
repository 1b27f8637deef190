#!/bin/bash
# The first process of a guest that is no more than an installer: it starts in seconds even under
# emulation.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

/lib/systemd/systemd-udevd --daemon
udevadm trigger --type=subsystems --action=add
udevadm trigger --type=devices --action=add
udevadm settle
exec python3 -u /usr/local/lib/guest/shell.py
