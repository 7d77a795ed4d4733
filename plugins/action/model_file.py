# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_file, with its progress in the play's output. Its documentation is the module's."""

from __future__ import annotations

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.homelab.llamacpp.plugins.plugin_utils._progress import ProgressAction


class ActionModule(ProgressAction):
    at_once = 64 << 20  # bytes, that take some seconds

    def is_long(self) -> bool:
        """Verifying reads every file."""
        return boolean(self._task.args.get("verify", False), strict=False) is True
