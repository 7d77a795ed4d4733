#!/bin/sh
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# in-root.sh ROOT RECIPE: run one recipe of this folder inside a root filesystem. The mounts live in a mount namespace
# of this process, so nothing stays behind however it ends. No service of an installed package starts.
set -eu
if [ "${LAB_IN_ROOT:-}" != 1 ]; then
  LAB_IN_ROOT=1 exec unshare --mount --propagation private --kill-child --pid --fork "$0" "$@"
fi
root=$1 recipe=$2
here=$(cd "$(dirname "$0")" && pwd -P)
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp -R "$here" "$root/run/images"
# A machine behind a proxy that opens TLS has the certificates for it in its own bundle; the image keeps its own.
ca=/etc/ssl/certs/ca-certificates.crt
if [ -e "$ca" ]; then
  cp -L "$ca" "$root/run/ca.crt"
  export PIP_CERT=/run/ca.crt SSL_CERT_FILE=/run/ca.crt REQUESTS_CA_BUNDLE=/run/ca.crt
fi
chroot "$root" /bin/sh -euc '. /run/images/lib.sh; . "/run/images/$1.sh"; apt-get clean; rm -rf /var/lib/apt/lists/*' sh "$recipe"
rm -f "$root/usr/sbin/policy-rc.d"
: >"$root/etc/resolv.conf"
