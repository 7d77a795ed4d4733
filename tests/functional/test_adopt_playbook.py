# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""adopt.yml on a hostile server: nothing of its text becomes a template, a variable or a comment's next line.

The systemd of the guest is a double; the modules, the play and Ansible's reading of the inventory are real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.homelab.llamacpp.plugins.plugin_utils._inventory_yaml import InventoryError, to_inventory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {"llamacpp_models", "llama_router_options"}
# A systemd with one unit that does not run. Its command line is in a file, as D-Bus tells it.
SYSTEMCTL = """\
#!/bin/sh
case $1 in
  list-*) echo "llama-server.service enabled enabled" ;;
  show) echo "Id=llama-server.service
ExecStart={ path=$FOLDER/llama-server ; argv[]=llama-server }
ActiveState=inactive
UnitFileState=enabled
MainPID=0
User=
WorkingDirectory=$FOLDER
Environment=
EnvironmentFiles=" ;;
esac
"""


class Hostile:
    """A server by hand on this machine, and an inventory with this machine as its host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.witness = folder / "witness"
        self.host_vars = folder / "inventory" / "host_vars" / "guest"
        (folder / "models").mkdir()
        (folder / "inventory").mkdir()
        for name, text in {
            "systemctl": SYSTEMCTL,
            "busctl": '#!/bin/sh\ncat "$FOLDER/exec-start.json"\n',
            "llama-server": "#!/bin/sh\necho '  CUDA0: a card'\n",
        }.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (folder / "inventory" / "hosts.json").write_text(json.dumps({"llama_routers": {"hosts": {"guest": host}}}))

    def started_with(self, *words: str) -> None:
        command = [[f"{self.folder}/llama-server", [f"{self.folder}/llama-server", *words], False, 0, 0, 0, 0, 0, 0, 0]]
        (self.folder / "exec-start.json").write_text(json.dumps({"type": "a", "data": command}))

    def run(self, *argv: str) -> str:
        environment = {**os.environ, "FOLDER": str(self.folder), "PATH": f"{self.folder}:{os.environ['PATH']}"}
        environment |= {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "ANSIBLE_NOCOLOR": "1", "PYTHONPATH": ""}
        environment |= {"XDG_CACHE_HOME": str(self.folder), "ANSIBLE_LOCALHOST_WARNING": "0"}
        done = subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def adopted(self) -> str:
        return self.run(
            *("ansible-playbook", "-i", "inventory", str(ROOT / "playbooks" / "adopt.yml")),
            *("-e", f"llamacpp_adopt_into={self.folder}/inventory", "-vvv", "--diff"),
        )

    def read_back(self) -> dict[str, Any]:
        """The host's variables as a play uses them: every template in them has been rendered."""
        play = [
            {
                "hosts": "llama_routers",
                "gather_facts": False,
                "tasks": [
                    {
                        "ansible.builtin.copy": {
                            "content": "{{ dict(vars) | dict2items | selectattr('key', 'match', '(vault_)?llama')"
                            " | items2dict | to_json }}",
                            "dest": f"{self.folder}/read.json",
                        }
                    }
                ],
            }
        ]
        (self.folder / "read.yml").write_text(yaml.safe_dump(play))
        self.run("ansible-playbook", "-i", "inventory", "read.yml")
        found: dict[str, Any] = json.loads((self.folder / "read.json").read_text())
        return found


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def test_nothing_of_a_guest_is_run_and_no_variable_is_added(hostile: Hostile) -> None:
    run = "{{ lookup('pipe', 'touch witness') }}"
    # A file's name has no slash, so the command goes by its folder: that of the play.
    for name in (
        f"{run}.gguf",
        f"{run}\nllama_router_host: 6.6.6.6.gguf",
        "{% raw %}.gguf",
        "#jinja2: x.gguf",
        "plain.gguf",
    ):
        (hostile.folder / "models" / name).write_bytes(b"GGUF")
    (hostile.folder / "models" / os.fsdecode(b"\xff.gguf")).write_bytes(b"GGUF")
    key = "{{lookup('pipe',ansible_check_mode|ternary('','touch${IFS}witness'))}}"
    (hostile.folder / "keys").write_text(key + "\n")
    hostile.started_with(
        *("--models-dir", "models", "--api-key-file", "keys", "--no-such\nllama_router_host: 6.6.6.6\n#", f"\r{run}"),
        *("--chat-template", run, "--tools", "all", "--hf-token", "hf_verysecret", "--new-token", "other-secret"),
    )
    output = hostile.adopted()
    assert "hf_verysecret" not in output
    assert "other-secret" not in output
    text = (hostile.host_vars / "llamacpp.yml").read_text()
    assert text.isascii()
    assert "# Not adopted: the command line has tools lets whoever" in text
    listed = json.loads(hostile.run("ansible-inventory", "-i", "inventory", "--host", "guest"))
    assert sorted(name for name in listed if name.startswith(("llama", "vault"))) == [
        *("llama_cpp_backend", "llama_cpp_method", "llama_router_api_keys", "llama_router_common_options"),
        *("llama_router_models_max", "llama_router_port", "llamacpp_models", "vault_llama_router_api_keys"),
    ]
    found = hostile.read_back()
    assert not hostile.witness.exists()
    assert "llama_router_host" not in found
    assert found["llama_router_api_keys"] == found["vault_llama_router_api_keys"] == [key]
    assert found["llama_router_common_options"] == {"chat-template": run}
    assert f"{run}.gguf" in str(found["llamacpp_models"])
    aliases = sorted(alias for model in found["llamacpp_models"] for alias in model.get("aliases", ()))
    assert aliases == ["#jinja2: x", "{% raw %}", run]


TEXT = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Po"])),
    st.sampled_from(
        [
            "{{ x }}",
            "{% if %}",
            "{# c #}",
            "#jinja2: a",
            "~",
            "<<",
            "=",
            "1_0",
            "0o7",
            "yes",
            "!vault x",
            "\r\n---\nx: 1",
        ]
    ),
    st.builds("{}{{{{ {} }}}}".format, st.text(max_size=3), st.text(max_size=5)),
)
DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]*", fullmatch=True), inner)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(models=st.lists(DATA, max_size=4), comments=st.lists(TEXT, max_size=3))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, models: list[Any], comments: list[str]
) -> None:
    """By Ansible's own reader of an inventory, and by the renderer of its templates: no string changes."""
    from ansible.template import Templar

    path = tmp_path_factory.getbasetemp() / "written.yml"
    path.write_text(
        to_inventory({"llamacpp_models": models}, ALLOWED, {"keys": "vault_keys"}, comments), encoding="ascii"
    )
    loader = DataLoader()
    read = loader.load_from_file(str(path), cache="none", trusted_as_template=True)
    assert list(read) == ["llamacpp_models", "keys"]
    assert read["llamacpp_models"] == models
    rendered = Templar(loader, variables={"vault_keys": ["k"]}).template(read)
    assert rendered == {"llamacpp_models": models, "keys": ["k"]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"ansible_connection": "local"}, "found ansible_connection. The guest may be compromised"),
        ({"llamacpp_models": [{"{{ x }}": 1}]}, r"llamacpp_models: expected a key of letters"),
        ({"llamacpp_models": [{"a\nb": 1}]}, r"llamacpp_models: expected a key of letters"),
        (["llamacpp_models"], "expected a mapping of variables, found list"),
        ({"llamacpp_models": b"x"}, "found bytes"),
        ({"llamacpp_models": ["\udcff"]}, "found bytes that are none"),
    ],
)
def test_what_a_compromised_guest_may_answer_is_refused(data: Any, told: str) -> None:
    with pytest.raises(InventoryError, match=told):
        to_inventory(data, ALLOWED)


def test_data_without_an_end_is_refused() -> None:
    deep: list[Any] = []
    for _level in range(5000):
        deep = [deep]
    with pytest.raises(InventoryError, match="at most 16 levels"):
        to_inventory({"llamacpp_models": deep}, ALLOWED)
