# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""plan.yml on real headers: what it prints, the page that it draws, and that it changes nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "tests" / "fixtures" / "gguf_headers"
MODELS = [
    {"name": "Qwen3-8B-Q4_K_M", "options": {"ctx-size": 32768}},
    {"name": "gpt-oss-20b-mxfp4", "context_per_user": 32768, "users": 3},
    {"name": "gemma-3-4b-Q4_K_M", "options": {"ctx-size": 8192, "device": "CUDA1"}},
    {"name": "not-there-yet", "size": "32b", "options": {"ctx-size": 16384}},
    {"name": "measured & <given>", "vram_mib": 9000, "options": {"ctx-size": 8192}},
]


class Run:
    """One run of plan.yml on this machine in place of a guest."""

    def __init__(self, folder: Path, models: list[dict[str, Any]], *args: str) -> None:
        router = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "llama_router_models_dir": str(folder / "models"),
            "llama_router_devices": [24576, 24576],
            "llamacpp_models": models,
        }
        (folder / "hosts.json").write_text(json.dumps({"llama_routers": {"hosts": {"guest": router}}}))
        argv = ["ansible-playbook", "-i", "hosts.json", str(ROOT / "playbooks" / "plan.yml"), *args]
        environment = {
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "XDG_CACHE_HOME": str(folder),
        }
        environment |= {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "PYTHONPATH": "", "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        self.output, self.rc = done.stdout + done.stderr, done.returncode
        found = re.search(r'"msg": (\[.*?^    \])', self.output, re.DOTALL | re.MULTILINE)
        self.lines: list[str] = json.loads(found[1]) if found else []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that a first run has drawn, in the folder of the models directory."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "models").mkdir()
    for model in MODELS:
        if (HEADERS / f"{model['name']}.gguf").exists():
            shutil.copy(HEADERS / f"{model['name']}.gguf", folder / "models")
    run = Run(folder, MODELS, "-e", f"llama_router_plan_html={folder / 'plan.html'}")
    assert run.rc == 0, run.output
    return folder / "plan.html"


def test_the_plan_is_printed_and_a_second_run_changes_nothing(page: Path) -> None:
    run = Run(page.parent, MODELS, "-e", f"llama_router_plan_html={page}")
    assert run.rc == 0, run.output
    assert "changed=0" in run.output
    table = {line.split()[0]: line.split() for line in run.lines[:7]}
    assert table["MODEL"] == ["MODEL", "CUDA0", "CUDA1", "HOST", "CTX-SIZE", "AT", "MOST", "HOW"]
    assert table["Qwen3-8B-Q4_K_M"][4:] == ["32768", "40960", "exact"]
    assert table["gpt-oss-20b-mxfp4"][4] == "98304"
    assert table["gemma-3-4b-Q4_K_M"][1] == "-"
    assert table["not-there-yet"][-1] == "table"
    assert table["usable"][1:3] == ["23552", "23552"]
    text = "\n".join(run.lines)
    assert re.search(r"^Any \d of these 5 fit: limit \d\.", text, re.MULTILINE)
    assert re.search(r"do not fit together on CUDA[01]: [0-9,]+ MiB short; with ctx-size \d+ for \S+ they do\.", text)
    assert "|   - CUDA0 (4847 = 2087 + 2432 + 328)" in text
    assert "[gpt-oss-20b-mxfp4]\nctx-size = 98304\nparallel = 3\nkv-unified = false\ntensor-split = 1,1" in text
    assert "--ctx-size 32768 --tensor-split 1,1 --fit off" in text


def test_what_dedicated_instances_hold_is_left_alone(page: Path) -> None:
    """Of the second device alone: half of the 8B's weights and cache would be on the first without `device`."""
    coder = {
        "name": "coder",
        "model": "Qwen3-8B-Q4_K_M",
        "port": 8101,
        "options": {"ctx-size": 8192, "device": "CUDA1"},
    }
    stopped = {"name": "idle", "model": "Qwen3-8B-Q4_K_M", "port": 8102, "state": "stopped"}
    run = Run(page.parent, MODELS[1:], "-e", json.dumps({"llamacpp_instances": [coder, stopped]}))
    assert run.rc == 0, run.output
    (usable,) = (line.split()[1:3] for line in run.lines if line.startswith("usable"))
    assert usable[0] == "23552"
    assert 16000 < int(usable[1]) < 18000
    clash = Run(page.parent, MODELS[1:], "-e", json.dumps({"llamacpp_instances": [{**coder, "port": 8012}]}))
    assert "instance coder: port 8012 is the one of the router" in clash.output


def test_a_plan_that_cannot_work_stops_with_one_sentence(page: Path) -> None:
    run = Run(page.parent, [*MODELS, {"name": "x", "size": "70b", "options": {"ctx-size": 131072}}])
    assert run.rc != 0
    assert "the model 'x' does not fit alone" in run.output
    assert "changed=0" in run.output


def test_without_a_folder_the_table_serves(tmp_path: Path) -> None:
    run = Run(tmp_path, MODELS[3:])
    assert run.rc == 0, run.output
    assert "All 2 models fit at once: limit 2." in run.lines


def test_the_page_has_a_bar_a_device_and_fetches_nothing(page: Path) -> None:
    html = page.read_text()
    assert "<script" not in html
    assert not re.search(r"(?:src|href|url\()", html)
    assert "measured &amp; &lt;given&gt;" in html
    picture = ET.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL)[0])  # type: ignore[index]
    titles = [title.text or "" for title in picture.iter("title")]
    assert len(titles) == 4 + 5  # one model is on one device alone
    for group in picture.iter("g"):
        total = int(re.search(r": ([0-9,]+) MiB", group[0].text or "")[1].replace(",", ""))  # type: ignore[index]
        wide = sum(float(part.get("width", 0)) for part in group.iter("rect"))
        assert wide == pytest.approx(860 * total / widest(titles), abs=0.5)


def widest(titles: list[str]) -> float:
    """The most that a device would hold with all of them, which is as long as the picture has room."""
    sums = {"CUDA0": 0, "CUDA1": 0}
    for title in titles:
        found = re.search(r" on (CUDA\d): ([0-9,]+) MiB", title)
        assert found
        sums[found[1]] += int(found[2].replace(",", ""))
    return max(24576, *sums.values())


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_chromium_draws_it(page: Path, scheme: int) -> None:
    """In both schemes, with no complaint; the background is the scheme's."""
    argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1000"]
    argv += [f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={page.parent / 'chromium'}"]
    script = "<script>document.title = getComputedStyle(document.body).backgroundColor</script></body>"
    probe = page.with_name("probe.html")
    probe.write_text(page.read_text().replace("</body>", script))
    dom = subprocess.run([*argv, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert ("rgb(255, 255, 255)" if scheme else "rgb(20, 24, 29)") in dom.stdout
    picture = page.with_name("page.png")
    subprocess.run([*argv, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=300, check=True)
    assert picture.stat().st_size > 40_000
