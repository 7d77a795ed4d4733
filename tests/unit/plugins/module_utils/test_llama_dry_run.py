# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run


def test_what_a_dry_run_says() -> None:
    refused = "0.00 E srv  llama_server: failed to initialize router models: option 'x' not recognized in preset 'm'\n"
    assert _llama_dry_run.refusal(refused) == "option 'x' not recognized in preset 'm'"
    assert _llama_dry_run.refusal("couldn't bind HTTP server socket") == ""
    assert _llama_dry_run.refusal("Segmentation fault") is None
    assert _llama_dry_run.last_words("a\nb\nc\nd\n") == "b / c / d"
    assert _llama_dry_run.last_words("") == "nothing"


def test_no_variable_of_llama_server_is_taken_along() -> None:
    """One that names a model would make it a server of that one."""
    given = {
        "LLAMA_ARG_MODEL": "/x",
        "LLAMA_CACHE": "/c",
        "PATH": "/bin",
        "MY_LLAMA_X": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert _llama_dry_run.environment(given) == {"PATH": "/bin", "MY_LLAMA_X": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_nobody_can_listen_at_its_address() -> None:
    """A socket, so that no port is opened either, in a folder that does not exist."""
    assert _llama_dry_run.HOST.endswith(".sock"), "llama-server takes that for the path of a socket"
    assert os.path.isabs(_llama_dry_run.HOST)
    assert not os.path.exists(os.path.dirname(_llama_dry_run.HOST))


def test_a_refusal_counts_before_the_address() -> None:
    words = "failed to initialize router models: no such folder\ncouldn't bind HTTP server socket\n"
    assert _llama_dry_run.refusal(words) == "no such folder"


def test_the_last_words_are_few() -> None:
    assert _llama_dry_run.last_words("one\ntwo") == "one / two"
    assert _llama_dry_run.last_words("\n \n") == "nothing"
