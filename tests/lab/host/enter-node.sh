#!/bin/sh
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# enter-node.sh ROOT VOLUMES PVE CGROUP: become the node's first process. Called by power.py as process 1 of new pid,
# network, host name, ipc and mount namespaces; it builds what a container manager builds for a system container that
# may run containers itself, and hands over to systemd. Nothing here is visible outside these namespaces.
set -eu
root=$1 volumes=$2 pve=$3 cgroup=$4
if [ "${LAB_STAGE:-1}" = 1 ]; then
  # power.py says "go" when it has put the network interface in.
  read -r _
  ip link set lo up
  # The cgroup namespace's root is where its maker stands, and on a pure cgroup2 nobody but the node may stand there.
  echo 0 >"$cgroup/cgroup.procs"
  LAB_STAGE=2 exec unshare --cgroup -- "$0" "$@"
fi

mount --bind "$root" "$root"
cd "$root"
mount --bind "$volumes" var/lib/vz
mount --bind "$pve" etc/pve
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind sys/devices/virtual/net sys/devices/virtual/net
mount -o remount,bind,ro sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,size=4m tmpfs dev
mkdir -p dev/pts dev/shm dev/mqueue dev/.lxc/proc dev/.lxc/sys dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
while read -r name major minor; do
  mknod -m 666 "dev/$name" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
net/tun 10 200
NODES
# systemd wants a console to complain to; its journal is the place to look.
mknod -m 600 dev/console c 1 3
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
# The kernel lets an unprivileged guest mount its own /proc and /sys only where a whole one is in sight.
mount -t proc proc dev/.lxc/proc
mount -t sysfs sysfs dev/.lxc/sys
# The kernel, its settings and its modules are this machine's, not the node's; the settings of its network are its own.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then
  mount --bind proc/sysrq-trigger proc/sysrq-trigger
  mount -o remount,bind,ro proc/sysrq-trigger
fi

# Where the stand-ins for GPUs are shown (see usr/lib/lab-gpu); this machine's own cards are none of the node's.
mount -t tmpfs -o mode=755,size=1m tmpfs proc/driver
mount -t tmpfs -o mode=755,size=1m tmpfs sys/bus/pci/devices

mkdir -p .old-root
pivot_root . .old-root
cd /
umount -l /.old-root
rmdir /.old-root
exec env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time,-wake_alarm,-mac_admin,-mac_override /sbin/init
