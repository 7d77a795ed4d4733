# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The property tests look at the same cases in every run, so that a red run is the change's own doing.

hypothesis does so by itself where it sees CI, which ansible-test hides from it. HYPOTHESIS_RANDOM=1 looks for new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

if not os.environ.get("HYPOTHESIS_RANDOM"):
    settings.load_profile("ci")
