# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""200 models: a models directory looked at twice, and planned from its files on two devices."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_info import Cache, model_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import view
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan

HEADERS = sorted((Path(__file__).parents[1] / "fixtures" / "gguf_headers").glob("*.gguf"))
MODELS = 200
DEVICES = [49152, 49152]


def timed(what: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    print(f"{what}: {(time.perf_counter() - start) * 1000:.0f} ms")
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "models")
        folder.mkdir()
        for number in range(MODELS):
            shutil.copy(HEADERS[number % len(HEADERS)], folder / f"m{number:03}.gguf")

        def look() -> list[dict[str, Any]]:
            cache = Cache(str(Path(scratch, "cache.json")))
            found = [model_of(entry, cache) for entry in view(str(folder)).entries]
            cache.save()
            return found

        found = timed(f"first look at {MODELS} models (small headers)", look)
        assert timed(f"second look at {MODELS} models", look) == found
    models = [
        {"name": model["id"], "facts": model["facts"], "options": {"ctx-size": 4096 + 256 * number}}
        for number, model in enumerate(found)
    ]
    plan = timed(f"plan of {MODELS} models on two devices", lambda: vram_plan(models, DEVICES))
    print(f"limit {plan['models_max']}, {len(plan['conflicts'])} conflicts")
    timed("plan of 10 models on two devices", lambda: vram_plan(models[:10], DEVICES))


if __name__ == "__main__":
    main()
