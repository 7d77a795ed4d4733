# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run


def test_what_a_dry_run_says() -> None:
    refused = "0.00 E srv  llama_server: failed to initialize router models: option 'x' not recognized in preset 'm'\n"
    assert _llama_dry_run.refusal(refused) == "option 'x' not recognized in preset 'm'"
    assert _llama_dry_run.refusal("couldn't bind HTTP server socket") == ""
    assert _llama_dry_run.refusal("Segmentation fault") is None
    assert _llama_dry_run.last_words("a\nb\nc\nd\n") == "b / c / d"
    assert _llama_dry_run.last_words("") == "nothing"
