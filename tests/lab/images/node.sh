# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The node: what Proxmox VE brings along, as far as Debian has it, and the library behind the doubles.
mask_units
install_packages openssh-server lxc btrfs-progs zstd python3 python3-venv ifupdown bridge-utils ca-certificates procps \
  iputils-ping nftables less initramfs-tools kmod pciutils
# LXC's own bridge and its start at boot: Proxmox has neither.
sed -i 's/^USE_LXC_BRIDGE=.*/USE_LXC_BRIDGE="false"/' /etc/default/lxc-net
systemctl mask -q lxc.service lxc-net.service console-getty.service getty@.service systemd-networkd.service \
  systemd-networkd.socket systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
forget_identity
python3 -m venv /opt/lab-doubles
/opt/lab-doubles/bin/pip install -q --no-cache-dir --no-deps --require-hashes -r /run/images/node.txt
