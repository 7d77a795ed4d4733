# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Its arguments are UNIT_ARGUMENTS in module_utils/_router_service.py.
    DOCUMENTATION = r"""
options:
  name:
    description: The router's systemd unit.
    type: str
    default: llama-router.service
  presets:
    description:
      - The router's preset file. A change of it alone is taken up by a reload, which stops only the models that it
        concerns.
      - Leave it out for a router without one.
    type: path
  models_dir:
    description:
      - The router's models folder. When other models lie in it than the router serves from it, it is made to reload.
      - Leave it out for a router without one.
    type: path
  placed_in:
    description:
      - The folder into which M(homelab.llamacpp.model_file) places models. A running model whose files it has replaced
        since is stopped, and loaded again with the new ones.
    type: path
  watch:
    description:
      - Files whose change needs a restart, for instance the unit file, the key file and a stamp of the release.
      - A drop-in of the unit that systemd has not read yet needs one too, without being named here.
    type: list
    elements: path
    default: []
  applied:
    description:
      - The record of what the running router started with, in the format of C(sha256sum).
      - The unit has to write it as root with an C(ExecStartPre=+), a line each for O(presets) and every file of
        O(watch) that exists, with the very same paths. The filter P(homelab.llamacpp.unit_record#filter) makes it.
      - A record in a directory that another user can write to counts as missing, so the router is restarted.
    type: path
    default: /run/homelab-llamacpp/llama-router.service.applied
  pending:
    description: Where the names of models that are to be loaded again are kept while that is not done.
    type: path
    default: /var/lib/llama-router/pending.json
  timeout:
    description: How many seconds the router may take to come up, or to reload.
    type: int
    default: 60
  load_timeout:
    description: How many seconds each model may take that is loaded again.
    type: int
    default: 300
  quiet_timeout:
    description:
      - Before a restart, how many seconds to wait for a moment in which no answer is under way. The router serves
        meanwhile. A router that is told to stop breaks off what it is answering.
    type: int
    default: 300
  finish_timeout:
    description:
      - When no such moment came, how many seconds the answers that are under way may take to finish. New requests wait
        meanwhile. What is not finished then is broken off, with a warning.
    type: int
    default: 60
"""
