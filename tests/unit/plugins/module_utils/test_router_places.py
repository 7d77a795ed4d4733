# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import EXPORTER, UNIT, Places, of_unit


class Units:
    """systemctl of a host with these units and their command lines."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self.commands = commands

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        assert argv[:2] == ["systemctl", "show"]
        assert argv[3] == "--property=ExecStart"
        command = self.commands.get(argv[2])
        if command is None:
            return 0, "ExecStart=\n", ""
        words = command.split()
        return 0, f"ExecStart={{ path={words[0]} ; argv[]={command} ; ignore_errors=no ; pid=7 }}\n", ""


def places(command: str | None = None, exporter: str | None = None) -> Places:
    given = {UNIT: command, EXPORTER: exporter}
    return of_unit(Units({name: text for name, text in given.items() if text is not None}))


def test_the_roles_own_places_where_the_unit_says_nothing() -> None:
    assert places() == Places(
        unit="llama-router.service",
        url="http://127.0.0.1:8012",
        keys="/etc/llama-router/api-keys",
        plan="/etc/llama-router/plan.json",
        models="/var/lib/llama-router/models",
        validate_certs=True,
        tls=(),
        local=False,
    )
    assert (UNIT, EXPORTER) == ("llama-router.service", "llama-router-exporter.service")


def test_no_systemd_is_as_no_unit() -> None:
    assert of_unit(lambda argv: (127, "", "")) == Places()


def test_places_of_a_command_line() -> None:
    found = places("/bin/llama-server --host 192.0.2.5 --port 9000 --models-dir /m --api-key-file /etc/x/keys")
    assert (found.url, found.models, found.keys) == ("http://192.0.2.5:9000", "/m", "/etc/x/keys")
    assert (found.plan, found.local) == ("/etc/x/plan.json", False)
    other = of_unit(Units({"other.service": "/bin/llama-server --port 1"}), "other.service")
    assert (other.unit, other.url) == ("other.service", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("host", "url", "local"),
    [
        ("127.0.0.1", "http://127.0.0.1:8012", True),
        ("localhost", "http://localhost:8012", True),
        ("::1", "http://[::1]:8012", True),
        ("0.0.0.0", "http://127.0.0.1:8012", False),
        ("::", "http://[::1]:8012", False),
        ("2001:db8::1", "http://[2001:db8::1]:8012", False),
    ],
)
def test_where_this_host_reaches_it(host: str, url: str, local: bool) -> None:
    found = places(f"/bin/llama-server --host {host}")
    assert (found.url, found.local) == (url, local)
    assert places("/bin/llama-server --port 8012").local


@pytest.mark.parametrize("keys", ["/run/credentials/x/api-keys", "%d/api-keys", "${CREDENTIALS_DIRECTORY}/api-keys"])
def test_credentials_are_the_file_beside_the_presets(keys: str) -> None:
    found = places(f"/bin/llama-server --api-key-file {keys} --models-preset /etc/other/models.ini")
    assert (found.keys, found.plan) == ("/etc/other/api-keys", "/etc/other/plan.json")
    assert places(f"/bin/llama-server --api-key-file {keys}").keys == "/etc/llama-router/api-keys"


def test_a_certificate_is_for_the_name_that_clients_use() -> None:
    found = places("/bin/llama-server --ssl-cert-file /c --port 443", "/bin/exporter --tls a:1 --x y --tls b:2")
    assert (found.url, found.validate_certs, found.tls) == ("https://127.0.0.1:443", False, ("a:1", "b:2"))
    assert found.certificates == ("127.0.0.1:443", "a:1", "b:2")
    assert places("/bin/llama-server --port 443", "/bin/exporter --tls a:1").certificates == ("a:1",)


@pytest.mark.parametrize(
    ("url", "port", "certificates"),
    [
        ("http://h", 80, ()),
        ("https://h", 443, ("h:443",)),
        ("https://[::1]", 443, ("[::1]:443",)),
        ("https://h:8443", 8443, ("h:8443",)),
    ],
)
def test_the_port_of_a_url(url: str, port: int, certificates: tuple[str, ...]) -> None:
    assert (Places(url=url).port, Places(url=url).certificates) == (port, certificates)
