# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a module reaches a Proxmox VE node."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  node:
    description:
      - Name of the Proxmox VE node that the container belongs to, as the cluster knows it.
      - Without it, the node that the task runs on, by its hostname. Required with O(api_host).
    type: str
  timeout:
    description:
      - Seconds that one step (a create, a start, a shutdown) may take, and that the lock of another operation, such as
        a backup, is waited for.
      - Over C(pvesh) a step lasts as long as Proxmox VE lets it; only the waiting for locks and for a shutdown is
        limited there.
    type: int
    default: 300
  api_host:
    description:
      - Name or address of a node, to use its API over HTTPS from wherever the task runs.
      - Without it the module runs C(pvesh), so the task must run on the node as root. That has every right.
      - Neither way needs anything installed. Proxy variables of the environment are not followed.
    type: str
  api_port:
    description: Port of the API.
    type: int
    default: 8006
  api_user:
    description: User with its realm, such as V(root@pam). For O(api_host).
    type: str
  api_password:
    description: Password of O(api_user).
    type: str
  api_token_id:
    description:
      - Name of an API token of O(api_user), or the token whole, such as V(root@pam!homelab).
      - A token can set neither devices, bind mounts, hookscripts nor any feature but nesting, whatever its privileges.
    type: str
  api_token_secret:
    description: The token's secret.
    type: str
  validate_certs:
    description: Whether the certificate of O(api_host) must be trusted. O(api_fingerprint) is the better way out.
    type: bool
    default: true
  api_fingerprint:
    description:
      - SHA-256 fingerprint of the certificate of O(api_host), as C(pvenode cert info) on the node or the web interface
        show it. Only this certificate is then accepted, whoever signed it and whatever name it is for.
    type: str
  ca_path:
    description:
      - Path, where the task runs, of a PEM file with the authority to trust.
      - For a node with the certificate that it made itself, a copy of its C(/etc/pve/pve-root-ca.pem).
    type: path
"""
