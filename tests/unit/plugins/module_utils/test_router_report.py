# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_report
from ansible_collections.homelab.llamacpp.plugins.module_utils._offload import Offload
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Model,
    Refused,
    RouterError,
    Unreachable,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import Places, of_unit
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_report import (
    delays_of,
    disk_of,
    error_of,
    errors_in,
    loads_in,
    memory_of,
    plan_of,
    report,
    router_of,
    unit_of,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_table import lines_of

PLAN: dict[str, Any] = {
    "devices": [{"name": "CUDA0", "total_mib": 24576, "usable_mib": 23552}],
    "models": [
        {
            "name": "big",
            "devices": [{"device": "CUDA0", "weights_mib": 4000.0, "total_mib": 5000.0}],
            "total_mib": 5000.0,
            "host_mib": 300.0,
            "exactness": "exact",
        }
    ],
}
ROUTER: dict[str, Any] = {
    "url": "http://127.0.0.1:8012",
    "up": True,
    "reason": None,
    "role": "router",
    "build": "b11669",
    "limit": 2,
    "autoload": True,
    "loaded": ["big"],
}
UNIT = {
    "name": "llama-router.service",
    "state": "active",
    "sub": "running",
    "enabled": "enabled",
    "since": 1_700_000_000,
    "restarts": 0,
    "memory_mib": 812,
    "errors": [],
}
DRIVER = {"kernel_version": "550.1", "library_version": "550.1", "agree": True, "reason": None}
GPU = {
    "index": 0,
    "uuid": "GPU-1",
    "product": "NVIDIA GeForce RTX 3090",
    "memory_total_mib": 24576,
    "memory_used_mib": 5100,
    "utilization_percent": 97,
    "temperature_celsius": 71,
    "power_watts": 280.5,
    "power_limit_watts": 350,
    "throttling": ["power limit"],
}
FULL = Offload(29, 29, {"CUDA0": 4000.0}, {"CUDA0": 4700.0, "host": 280.0})


def model(name: str = "big", status: str = "loaded", **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "id": name,
        "aliases": (),
        "tags": (),
        "status": status,
        "failed": False,
        "exit_code": None,
        "source": "preset",
        "options": {"ctx-size": "8192"},
        "args": (),
        "port": 4001,
        "modalities": (),
        "meta": {},
    }
    return Model(**{**fields, **changes})


def host(**changes: Any) -> dict[str, Any]:
    found = {
        "unit": UNIT,
        "gpus": [GPU],
        "driver": DRIVER,
        "memory": {"total_mib": 8000, "available_mib": 6000},
        "disk": {"path": "/m", "total_mib": 100000, "free_mib": 50000},
        "certificates": [],
    }
    return {**found, **changes}


def made(
    *models: Model, load: Offload | None = FULL, router: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    return report(router or ROUTER, models, host(**changes), PLAN, {"big": load} if load else {})


def certificate(days: float) -> dict[str, Any]:
    return {"address": "proxy:443", "expires": time.time() + days * 86400, "reason": None}


# --- the verdict ------------------------------------------------------------------------------------------------


def test_all_is_well() -> None:
    found = made(model(), certificates=[certificate(15)])
    assert (found["verdict"], found["reasons"]) == ("healthy", [])
    assert found["models"][0]["memory"] == [
        {"device": "CUDA0", "planned_mib": 5000.0, "used_mib": 4700.0},
        {"device": "host", "planned_mib": 300.0, "used_mib": 280.0},
    ]
    assert found["devices"] == [{"name": "CUDA0", "total_mib": 24576, "usable_mib": 23552, "used_mib": 4700.0}]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (made(model(status="unloaded", failed=True, exit_code=1)), "big failed: .* exit code 1"),
        (made(model(), model("other", "unloaded", failed=True, exit_code=9)), "other failed: .* exit code 9"),
        (made(model(), load=Offload(3, 29, {"CUDA0": 400.0}, {"CUDA0": 500.0})), "big computes on the CPU: 3 of 29"),
        (
            made(model(), load=Offload(29, 29, {"CUDA0": 4.0}, {"CUDA0": 5300.0})),
            "takes 5300 MiB of CUDA0, planned are 5000",
        ),
        (made(), "the router has no models"),
        (made(model("other")), "planned and not served: big"),
        (
            made(model(), driver={**DRIVER, "agree": False, "reason": "the kernel module is 1"}),
            "the kernel module is 1",
        ),
        (
            made(model(), disk={"path": "/m", "total_mib": 100, "free_mib": 4}),
            "disk is full: 4 MiB of 100 are free at /m",
        ),
        (made(model(), disk={"path": "/m", "total_mib": None, "free_mib": None}), "/m cannot be looked at"),
        (made(model(), certificates=[certificate(13)]), "the certificate of proxy:443 ends in 13 days: renew it"),
        (made(model(), certificates=[certificate(-1)]), "the certificate of proxy:443 has ended: renew it"),
        (
            made(model(), certificates=[{**certificate(0), "expires": None, "reason": "refused"}]),
            "proxy:443 shows no certificate: refused",
        ),
    ],
)
def test_something_is_to_be_mended(found: dict[str, Any], reason: str) -> None:
    assert found["verdict"] == "degraded"
    assert any(re.search(reason, said) for said in found["reasons"]), found["reasons"]
    assert f"degraded: {found['reasons'][0]}" in lines_of(found)


def test_a_unit_that_does_not_run_is_the_reason_whatever_else_is() -> None:
    dead = {**UNIT, "state": "failed", "sub": "failed", "since": None, "restarts": None, "memory_mib": None}
    found = made(model(failed=True), router={**ROUTER, "up": False, "reason": "nothing listens"}, unit=dead)
    assert found["verdict"] == "down"
    assert found["reasons"] == ["llama-router.service is failed (failed): journalctl -u llama-router.service tells why"]
    assert lines_of(found)[:2] == ["llama-router.service: failed (failed, enabled)", f"down: {found['reasons'][0]}"]


def test_a_router_that_does_not_answer() -> None:
    found = made(router={**ROUTER, "up": False, "reason": "nothing listens"})
    assert (found["verdict"], found["reasons"]) == ("down", ["nothing listens"])


# --- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "used", "taken"), [("loading", None, 5000.0), ("sleeping", None, 0.0), ("unloaded", None, 0.0)]
)
def test_what_a_model_takes_while_its_log_is_silent(status: str, used: float | None, taken: float) -> None:
    found = made(model(status=status), load=FULL if status == "sleeping" else None)
    assert found["models"][0]["memory"][0]["used_mib"] is used
    assert found["devices"][0]["used_mib"] == taken


def test_a_model_that_runs_again_has_not_failed() -> None:
    """The router remembers the failure of an earlier process."""
    found = made(model(failed=True, exit_code=1))
    assert (found["models"][0]["failed"], found["models"][0]["exit_code"]) == (False, None)
    assert found["verdict"] == "healthy"


def test_a_model_out_of_the_plan() -> None:
    found = report(ROUTER, [model()], host(), plan_of("/nowhere"), {"big": FULL})
    assert found["models"][0]["planned"] is False
    assert found["models"][0]["memory"][0] == {"device": "CUDA0", "planned_mib": None, "used_mib": 4700.0}
    assert found["models"][0]["on_cpu"] is False
    assert found["devices"] == []


@pytest.mark.parametrize("text", ["", "null", "[]", '{"devices": ['])
def test_a_plan_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    assert plan_of(str(tmp_path / "plan.json")) == {"devices": [], "models": []}


@pytest.mark.parametrize(
    ("options", "meta", "context"),
    [
        ({"ctx-size": "8192"}, {"n_ctx": 4096}, 4096),
        ({"ctx-size": "0"}, {}, None),
        ({}, {}, None),
        ({"ctx-size": "512"}, {}, 512),
    ],
)
def test_the_context(options: dict[str, str], meta: dict[str, int], context: int | None) -> None:
    assert made(model(options=options, meta=meta))["models"][0]["ctx_size"] == context


def test_the_loads_in_a_journal() -> None:
    text = "0.01.0 I load_tensors:   CPU_Mapped model buffer size =   1.00 MiB"
    log = [f"[4001] {line}" for line in ("llama_server: initializing ...", text, "llama_server: model loaded")]
    found = loads_in(["0.1 I srv", *log, "[4002] x"], [model(), model("other", "unloaded")])
    assert found == {"big": Offload(0, 0, {}, {"host": 1.0})}


# --- the table --------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    sad = model("sad", "unloaded", failed=True, exit_code=1, options={"load-on-startup": "true"})
    until = {"address": "proxy:443", "expires": 4_000_000_000, "reason": None}
    lines = lines_of(made(model(), sad, certificates=[until]))
    assert lines[0].startswith("llama-router.service: active (running, enabled) since 20")
    assert lines[0].endswith(", 0 restarts, 812 MiB")
    assert lines[1] == "router at http://127.0.0.1:8012: build b11669, 1 of at most 2 models loaded"
    assert lines[2] == "degraded: sad failed: its process ended with exit code 1"
    assert lines[4:7] == [
        "MODEL  STATUS    CONTEXT     CUDA0 MiB    HOST MiB  NOTE",
        "big    loaded       8192  4700 of 5000  280 of 300",
        "sad    unloaded        -             -           -  its process ended with exit code 1, pinned",
    ]
    assert lines[8:] == [
        "CUDA0: 4700 of 23552 usable MiB taken by models",
        "GPU 0 NVIDIA GeForce RTX 3090: 5100 of 24576 MiB used, 97 %, 71 degrees, 280 W, held down by power limit",
        "driver: kernel module 550.1, libraries 550.1: the same",
        "memory of the guest: 2000 of 8000 MiB used",
        "disk of the models: 50000 of 100000 MiB free (/m)",
        "certificate of proxy:443: until 2096-10-02",
    ]


# --- the machine ------------------------------------------------------------------------------------------------


def shown(**changes: str) -> str:
    told = {"ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "NRestarts": "3"}
    told.update({"ActiveEnterTimestampMonotonic": "1000000", "MemoryCurrent": str(512 << 20)})
    return "".join(f"{key}={value}\n" for key, value in {**told, **changes}.items())


@pytest.mark.parametrize("memory", ["[not set]", str((1 << 64) - 1)])
def test_the_unit(memory: str) -> None:
    found = unit_of(lambda _argv: (0, shown(), ""), "x.service")
    assert (found["state"], found["restarts"], found["memory_mib"]) == ("active", 3, 512)
    assert abs(found["since"] - (time.time() - time.monotonic() + 1)) <= 2, "a second after the machine's start"
    found = unit_of(lambda _argv: (0, shown(MemoryCurrent=memory, ActiveEnterTimestampMonotonic="0"), ""), "x.service")
    assert (found["since"], found["memory_mib"]) == (None, None)
    assert unit_of(lambda _argv: (127, "", ""), "x.service")["state"] == "unknown"


def test_errors_and_last_words() -> None:
    log = ["gate: no CUDA0", "0.01.2 E srv: bad", "[4001] 0.2 E load: worse", "0.3 I well"]
    assert errors_in(log, "active") == ["srv: bad", "load: worse"]
    assert errors_in(log, "failed") == log
    assert error_of("0.3 I an E b") is None


def test_memory_and_disk(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text(
        "MemTotal:        8192000 kB\nMemFree: 1 kB\nMemAvailable:    4096000 kB\nHugePages_Total:       0\n"
    )
    assert memory_of(str(file)) == {"total_mib": 8000, "available_mib": 4000}
    assert disk_of(str(tmp_path))["free_mib"] > 0
    assert disk_of(str(tmp_path / "no"))["total_mib"] is None


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RouterError("api_key_file: the first key"), "key"),
        (Refused("it wants a key", 401, "no"), "key"),
        (Refused("busy", 500, "no"), "refused"),
        (Unreachable("nothing listens", transient=True), "unreachable"),
        (Unreachable("its certificate is not trusted", transient=False, tls=True), "certificate"),
        (Unreachable("that host name is not known", transient=False), "unreachable"),
        (RouterError("a router was wanted"), "refused"),
    ],
)
def test_a_router_that_cannot_be_asked(error: RouterError, problem: str) -> None:
    def client() -> Any:
        raise error

    found, models = router_of("http://x", client)
    assert (found["up"], found["reason"], found["loaded"], models) == (False, str(error), [], [])
    assert found["problem"] == problem


@pytest.mark.parametrize(
    "props", [{}, {"role": "router"}, {"max_instances": "2"}, {"max_instances": True}, [1], "x", 7]
)
def test_odd_answers_of_a_router_are_no_exceptions(props: Any) -> None:
    class Odd:
        def props(self) -> Any:
            return props

        def models(self) -> list[Model]:
            return []

    found, _models = router_of("http://x", Odd)  # type: ignore[arg-type]
    assert found["limit"] is None
    assert found["up"] is isinstance(props, dict) or found["problem"] == "refused"


@pytest.mark.parametrize(
    ("status", "installed", "ok"), [(0, True, True), (124, True, False), (137, True, False), (127, True, None)]
)
def test_whether_the_gpus_could_be_read(
    status: int, installed: bool, ok: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [GPU] if ok else []
    told = {"gpus": gpus, "driver": {"reason": "it hangs"}}
    monkeypatch.setattr(_router_report._nvidia, "read", lambda _run: (told, status))
    monkeypatch.setattr(_router_report._gpu_load, "look", lambda _run: gpus)
    reading = _router_report.gpus_of(lambda _argv: (0, "", ""))["gpu_reading"]
    assert reading["ok"] is ok
    assert (reading["at"] is not None) is (ok is True)
    assert reading["reason"] == ("it hangs" if ok is False else None)


def test_a_name_that_nobody_knows_is_no_matter_of_certificates() -> None:
    url = "https://nobody.invalid"
    assert router_of(url, lambda: Client(url, "k"))[0]["problem"] == "unreachable"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak_no_tls() -> None:
            line = listener.accept()[0]
            with line:
                line.recv(9999)
                line.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        threading.Thread(target=speak_no_tls, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert router_of(url, lambda: Client(url, "k"))[0]["problem"] == "certificate"


def test_a_gpu_without_memory_of_its_own() -> None:
    shared = {**GPU, "memory_total_mib": None, "memory_used_mib": None, "utilization_percent": None}
    (line,) = (line for line in lines_of(made(model(), gpus=[shared])) if line.startswith("GPU"))
    assert line == "GPU 0 NVIDIA GeForce RTX 3090: 71 degrees, 280 W, held down by power limit"


def test_a_report_of_a_machine_that_has_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return 127, "", "none"

    monkeypatch.setattr(_router_report, "memory_of", lambda: {"total_mib": 1, "available_mib": 1})
    found = _router_report.gather(Places(keys=str(tmp_path / "no"), models=str(tmp_path)), run)
    assert found["verdict"] == "down"
    assert "there is no such file" in found["reasons"][0]
    assert lines_of(found)


# --- where things are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (
            "--host 0.0.0.0 --port 8012 --api-key-file /e/api-keys --models-dir /m --models-preset /e/models.ini",
            Places("u", "http://127.0.0.1:8012", "/e/api-keys", "/e/plan.json", "/m"),
        ),
        (
            "--host fd00::1 --port 9 --ssl-cert-file c --api-key-file /run/credentials/u/k --models-preset /e/m.ini",
            Places("u", "https://[fd00::1]:9", "/e/api-keys", "/e/plan.json", validate_certs=False),
        ),
        ("--host ::", Places("u", "http://[::1]:8012")),
        ("--host 127.0.0.1", Places("u", "http://127.0.0.1:8012", local=True)),
        ("--port 8012", Places("u", "http://127.0.0.1:8012", local=True)),
    ],
)
def test_the_units_command_line_tells_where_things_are(words: str, places: Places) -> None:
    line = f"ExecStart={{ path=/b ; argv[]=/b {words} ; ignore_errors=no ; start_time=[n/a] ; pid=0 }}\n"
    assert of_unit(lambda argv: (0, line, "") if "u" in argv else (1, "", ""), "u") == places


def test_the_certificates_that_the_exporter_watches_are_watched() -> None:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        words = "--ssl-cert-file c" if "u" in argv else "--tls 127.0.0.1:443 --url x --tls other:8443"
        return 0, f"ExecStart={{ path=/b ; argv[]=/b {words} ; ignore_errors=no ; pid=0 }}\n", ""

    assert of_unit(run, "u").certificates == ("127.0.0.1:8012", "127.0.0.1:443", "other:8443")
    assert Places("u").certificates == ()


@pytest.mark.parametrize(
    ("url", "port", "shown"),
    [
        ("https://llama.lan", 443, ("llama.lan:443",)),
        ("https://[fd00::1]/", 443, ("[fd00::1]:443",)),
        ("https://llama.lan:8443/", 8443, ("llama.lan:8443",)),
        ("http://llama.lan", 80, ()),
    ],
)
def test_a_url_need_not_name_its_port(url: str, port: int, shown: tuple[str, ...]) -> None:
    places = Places("u", url)
    assert (places.port, places.certificates) == (port, shown)


@pytest.mark.parametrize("answer", [(0, "ExecStart=\n", ""), (127, "", "")])
def test_without_a_unit_the_defaults_are_asked(answer: tuple[int, str, str]) -> None:
    assert of_unit(lambda _argv: answer, "u") == Places("u")


# --- what delays the start ----------------------------------------------------------------------------------------

ONLINE = "Id=systemd-networkd-wait-online.service\nActiveState={}\n"
TIMES = "ExecMainStartTimestampMonotonic={}\nExecMainExitTimestampMonotonic={}\n"


def systemctl(wanted: str, blocks: str) -> Any:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        shown = f"WantedBy={wanted}\nRequiredBy=\n" if argv[2] == "network-online.target" else blocks
        return 0, shown, ""

    return run


def test_a_unit_that_delayed_the_start_is_named() -> None:
    waited = ONLINE.format("failed") + TIMES.format(2_000_000, 122_400_000)
    quick = waited.replace("systemd-networkd", "NetworkManager").replace("122", "3")
    delays = delays_of(systemctl("b.service multi-user.target a.service", f"{waited}\n{quick}"))
    assert delays == [
        {"name": "systemd-networkd-wait-online.service", "seconds": 120, "for": ["a.service", "b.service"]}
    ]
    found = made(model(), unit={**UNIT, "delays": delays})
    assert (found["verdict"], found["reasons"]) == (
        "degraded",
        [
            "systemd-networkd-wait-online.service delayed the guest's start by 120 s, for a.service, b.service:"
            " systemctl disable systemd-networkd-wait-online.service"
        ],
    )


def test_a_unit_that_delays_it_now_is_named_beside_the_reason() -> None:
    waits = ONLINE.format("activating") + TIMES.format(1, 0)
    delays = delays_of(systemctl("llama-router.service", waits))
    assert delays[0]["seconds"] == round(time.monotonic())
    found = made(model(), unit={**UNIT, "state": "inactive", "sub": "dead", "delays": delays})
    assert found["verdict"] == "down"
    assert "is inactive" in found["reasons"][0]
    assert "for llama-router.service" in found["reasons"][1]


@pytest.mark.parametrize("wanted", ["", "multi-user.target"])
def test_what_nothing_waits_for_delays_nothing(wanted: str) -> None:
    assert delays_of(systemctl(wanted, ONLINE.format("failed") + TIMES.format(1, 200_000_000))) == []


@pytest.mark.parametrize("answer", [(127, "", ""), (0, "", ""), (1, "", "Failed to connect to bus")])
def test_without_systemd_nothing_delays(answer: tuple[int, str, str]) -> None:
    assert delays_of(lambda _argv: answer) == []


def test_what_a_look_asks_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal from the start of the unit on, in which errors and loads are looked for; and the GPUs."""
    asked: list[list[str]] = []

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        asked.append(list(argv))
        if argv[0] == "journalctl":
            return 0, "0.01.2 E srv: bad\n", ""
        return (0, shown(), "") if argv[:2] == ["systemctl", "show"] and "NRestarts" in argv[3] else (1, "", "no")

    monkeypatch.setattr(_router_report, "gpus_of", lambda run: {"gpus": ["one"], "driver": {}, "gpu_reading": {}})
    monkeypatch.setattr(_router_report, "host_of", lambda places: {"disk": places.models})
    monkeypatch.setattr(_router_report, "report", lambda *parts: {"parts": parts})
    router, models, host, _plan, loads = _router_report.gather(Places(url="http://127.0.0.1:1", keys="/nowhere"), run)[
        "parts"
    ]
    (journal,) = (argv for argv in asked if argv[0] == "journalctl")
    assert journal[1:5] == ["--unit", "llama-router.service", "--since", f"@{host['unit']['since']}"]
    assert host["unit"]["errors"] == ["srv: bad"]
    assert (host["gpus"], host["disk"]) == (["one"], "/var/lib/llama-router/models")
    assert (router["up"], models, loads) == (False, [], {})


def test_the_client_of_a_report(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-some-length\n")
    places = Places(url="https://127.0.0.1:1", keys=str(tmp_path / "keys"), validate_certs=False)
    client = _router_report.connect(places, 3)
    assert (client.url, client.request_timeout, client._key) == ("https://127.0.0.1:1", 3, "a-key-of-some-length")
    assert client._trust == (False, None)
    assert _router_report.connect(places).request_timeout == 10
    with pytest.raises(RouterError, match="there is no such file"):
        _router_report.connect(Places(keys=str(tmp_path / "nowhere")))


def test_nothing_is_known_of_a_router_that_does_not_answer() -> None:
    found, models = _router_report.router_of("http://127.0.0.1:1", lambda: Client("http://127.0.0.1:1"))
    assert models == []
    assert found.keys() == {"reason", "problem", "role", "build", "limit", "autoload", "url", "up", "loaded"}
    assert (found["up"], found["problem"], found["limit"], found["loaded"]) == (False, "unreachable", None, [])
