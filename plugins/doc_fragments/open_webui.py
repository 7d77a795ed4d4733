# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  webui_url:
    description:
      - Where Open WebUI answers, as the module's host sees it - scheme, host and port.
      - It is asked directly, whatever proxy the environment names, and a redirect is not followed.
    type: str
    default: http://127.0.0.1:8080
  webui_email:
    description:
      - The account of an administrator of Open WebUI.
      - Each task signs in once. Open WebUI admits fifteen sign-ins of an account in three minutes.
    type: str
  webui_password:
    description: The password of O(webui_email). It is never logged.
    type: str
  webui_token:
    description:
      - Instead of the account, an administrator's API key (C(sk-…)) or the token of a session. It is never logged.
      - Open WebUI takes API keys only while an administrator has them enabled.
    type: str
  validate_certs:
    description: Whether the certificate of an C(https) Open WebUI is checked.
    type: bool
    default: true
  ca_path:
    description:
      - A file or a folder with certificates of authorities in PEM form, for an C(https) Open WebUI.
      - The system's own are used when it is not set.
    type: path
  request_timeout:
    description:
      - How many seconds a single request may take to connect, and to answer.
      - Open WebUI itself waits ten seconds for the model list of each of its connections, so less than that makes a
        connection that is down look like an Open WebUI that is.
    type: int
    default: 30
"""
