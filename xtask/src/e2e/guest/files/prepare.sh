# Runs inside a new root file system: makes it one that boots and obeys the machine outside.
set -euo pipefail

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/initramfs-tools/conf.d
echo RESUME=none >/etc/initramfs-tools/conf.d/resume
apt-get install -y --no-install-recommends $PACKAGES
rm /usr/sbin/policy-rc.d

cat >/etc/systemd/system/guest-network.service <<'END'
[Unit]
Description=The wire to the machine outside

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash /usr/local/lib/guest/network.sh

[Install]
WantedBy=multi-user.target
END

cat >/etc/systemd/system/guest-shell.service <<'END'
[Unit]
Description=Commands from the machine outside

[Service]
ExecStart=/usr/bin/python3 -u /usr/local/lib/guest/shell.py
Restart=always
KillMode=process

[Install]
WantedBy=multi-user.target
END

cat >/etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=ttyS0"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
END

systemctl enable guest-network guest-shell
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service
apt-get clean
rm -rf /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
