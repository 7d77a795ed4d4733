# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that convert the state directory: _state_directory.PLACES_ARGUMENTS."""

    DOCUMENTATION = r"""
options:
  path:
    description: The directory. Nothing happens when it does not exist.
    type: path
    default: /var/lib/llama-router
  models_dir:
    description: The models directory. It is checked when it is in O(path).
    type: path
    default: /var/lib/llama-router/models
  user:
    description: The service's user.
    type: str
    default: llama-router
  unit:
    description: The service's unit.
    type: str
    default: llama-router.service
  unit_file:
    description: The file of O(unit). It may be missing.
    type: path
    default: /etc/systemd/system/llama-router.service
"""
