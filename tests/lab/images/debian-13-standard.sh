# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A guest's root filesystem, in the place of Proxmox's own standard template, with what is known of that one: all packages
# of Debian's priorities required, important and standard, postfix, sshd, for Debian 13 ifupdown2 and ISC's DHCP client;
# three units masked, and a root without a password.
. /etc/os-release
apt-get update -qq
printf 'postfix postfix/main_mailer_type select No configuration\n' | debconf-set-selections
# shellcheck disable=SC2046 # names of packages
install_packages postfix ssh $(standard_packages) $(test "$VERSION_CODENAME" != trixie || echo ifupdown2 isc-dhcp-client)
ln -sf /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
for unit in sys-kernel-config.mount sys-kernel-debug.mount systemd-journald-audit.socket; do
  ln -sf /dev/null "/etc/systemd/system/$unit"
done
usermod -L root
# Once a day, so by chance in the middle of a test; the double stops the other daily ones.
systemctl mask -q man-db.timer
mask_units
forget_identity
