# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description:
      - Where the router listens, as the module's host sees it - scheme, host and port, without C(/v1).
      - It is asked directly, whatever proxy the environment names, and a redirect is not followed.
    type: str
    default: http://127.0.0.1:8012
  api_key:
    description:
      - One of the router's keys. It is never logged.
      - Mutually exclusive with O(api_key_file).
    type: str
  api_key_file:
    description:
      - The router's key file on the module's host, so that no key has to travel. Its first key is sent.
      - It is read as llama-server reads it - one key a line, lines that begin with a hash are comments, nothing is
        trimmed. A first key that ends in a blank or a carriage return is an error, because no client could send it.
      - The router reads the file only when it starts; after a change of keys restart it.
    type: path
  validate_certs:
    description: Whether the certificate of an C(https) router is checked.
    type: bool
    default: true
  ca_path:
    description:
      - A file or a folder with certificates of authorities in PEM form, for an C(https) router.
      - The system's own are used when it is not set.
    type: path
  request_timeout:
    description: How many seconds a single request may take to connect, and to answer.
    type: int
    default: 10
  server_user:
    description:
      - The user that the router runs as on the module's host. To an V(http) router on the module's host the key is
        sent only if this user or root listens there, so that no other user gets it who took the port.
      - Without it, the user of the router's systemd unit.
      - A certificate that is checked proves an V(https) router. A V(http) router on another host proves nothing.
    type: str
"""
