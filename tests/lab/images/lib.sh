# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What the recipes share. A recipe runs inside a root filesystem that starts as its base (see images.py), as root, with
# the network, /proc and /dev, and this folder at /run/images. LAB_GPU_MIB is set.

# Units that cannot work in a container without a kernel of its own, and would only make systemd report "degraded".
mask_units() {
  for unit in sys-kernel-debug.mount systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service \
      systemd-udevd-kernel.socket systemd-udevd-control.socket; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
  done
}

install_packages() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The packages that Debian itself installs by priority, apart from those that Proxmox leaves out of its templates, and
# from ifupdown, which the base has and ifupdown2 replaces.
standard_packages() {
  apt-cache dumpavail |
    awk '/^Package: /{name = $2} /^Priority: (required|important|standard)$/{print name}' |
    grep -Ev '^ifupdown$|exim|selinux|semanage|policycoreutils' | sort -u
}

# A guest gets its name, its name servers and its ssh host keys when it is created; what the build machine left is not it.
forget_identity() {
  rm -f /etc/hostname /etc/ssh/ssh_host_*
  : >/etc/machine-id
}
