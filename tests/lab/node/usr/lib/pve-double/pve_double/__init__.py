# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The double of Proxmox VE's own daemons on the lab's node: fakepve for the API, real LXC for what it does.

conf        /etc/pve/lxc/ID.conf, the form that the state is kept in
volumes     the guests' volumes: btrfs subvolumes, snapshots, templates
guest       what Proxmox writes into a guest's root filesystem
engine      lxc-start and its family: one container's real life
hotplug     a mount into a running container
server      fakepve with all of this behind it
client      what pvesh, pct, pveam and pvesm share
"""
