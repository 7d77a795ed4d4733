# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each alert is about, done to a guest and undone: a context manager for each, by the alert's name.

Two of them are stand-ins, since the lab has no GPU: the kernel module of another version is the lab's made-up one, and
what falls back to the CPU are ggml's RPC devices, by a preset that somebody has edited.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from monitored_guest import EXPORTER, KEYS, LAB, MODELS, Guest, on_node, until

PRESETS = "/etc/llama-router/models.ini"
FOLDER = "/var/lib/llama-router/models"
CERTIFY = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=llama.lan"
TLS = 9443

Fault = Callable[[Guest], AbstractContextManager[None]]
FAULTS: dict[str, Fault] = {}


def fault(alert: str) -> Callable[[Callable[[Guest], Iterator[None]]], Fault]:
    """A way to do it (up to its yield) and to undo it, which is undone also when what was waited for did not come."""

    def keep(way: Callable[[Guest], Iterator[None]]) -> Fault:
        @contextmanager
        def done(guest: Guest) -> Iterator[None]:
            steps = way(guest)
            next(steps, None)
            try:
                yield
            finally:
                next(steps, None)

        FAULTS[alert] = done
        return done

    return keep


@fault("LlamacppExporterDown")
def the_exporter_is_stopped(guest: Guest) -> Iterator[None]:
    guest.run(f"systemctl stop {EXPORTER}")
    yield
    guest.run(f"systemctl start {EXPORTER}")


@fault("LlamacppRouterDown")
def the_router_is_stopped(guest: Guest) -> Iterator[None]:
    guest.run("systemctl stop llama-router")
    yield
    guest.run("systemctl start llama-router")


@fault("LlamacppKeyOrCertificateWrong")
def the_key_file_has_another_key(guest: Guest) -> Iterator[None]:
    guest.run(f"cp -p {KEYS} /root/keys; echo another-key-than-the-routers >{KEYS}; systemctl restart {EXPORTER}")
    guest.until_told('llamacpp_problem{problem="key"} 1.0')
    yield
    # The exporter ends by itself after a minute with a key that is refused. Here nobody waits for that.
    guest.run(f"mv /root/keys {KEYS}; systemctl restart {EXPORTER}")


@fault("LlamacppCertificateExpires")
def a_certificate_of_five_days_is_shown(guest: Guest) -> Iterator[None]:
    serve = f"openssl s_server -quiet -accept 127.0.0.1:{TLS} -cert /root/tls.pem -key /root/tls.key"
    make = f"{CERTIFY} -keyout /root/tls.key -out /root/tls.pem -days"
    guest.run(f"{make} 5 2>/dev/null; systemd-run --quiet --collect --unit shown {serve}")
    guest.role(llama_monitoring_tls=[f"127.0.0.1:{TLS}"])
    yield
    guest.run(f"{make} 90 2>/dev/null; systemctl restart shown")
    guest.until_told(f'llamacpp_certificate_expiry_timestamp_seconds{{address="127.0.0.1:{TLS}"}}')
    until(lambda: not guest.fires("LlamacppCertificateExpires"))
    guest.run("systemctl stop shown")
    guest.role()


@fault("LlamacppModelFailed")
def a_process_is_killed_again_and_again(guest: Guest) -> Iterator[None]:
    for _time in range(3):
        guest.complete("alpha")
        # In brackets, so that the pattern does not find the shell that it stands in.
        guest.run("pkill -KILL -f -- '[-]-alias alpha'")
        until(lambda: guest.ask("/models") and not _running(guest, "alpha"))
    yield
    guest.complete("alpha")


@fault("LlamacppNothingUsable")
def every_file_is_broken(guest: Guest) -> Iterator[None]:
    """And while one is, the alert of the model fires, too."""
    on_node("cp -a /srv/watched /srv/whole && for file in /srv/watched/*; do echo broken >$file; done")
    for model in MODELS:
        guest.ask("/models/unload", model=model)
        until(lambda model=model: not _running(guest, model))
        guest.complete(model)
    yield
    on_node("for file in /srv/watched/*; do cat /srv/whole/${file##*/} >$file; done; rm -r /srv/whole")
    for model in MODELS:
        guest.complete(model)


@fault("LlamacppThrashing")
def clients_ask_for_more_models_in_turn_than_fit(guest: Guest) -> Iterator[None]:
    for _turn in range(3):
        for model in MODELS:
            guest.complete(model)
    yield


@fault("LlamacppOnCpu")
def a_preset_takes_the_layers_off_the_devices(guest: Guest) -> Iterator[None]:
    yield from _edited(guest, "n-gpu-layers = 0")


@fault("LlamacppMemoryAbovePlan")
def a_preset_asks_for_more_context_than_was_planned(guest: Guest) -> Iterator[None]:
    yield from _edited(guest, "ctx-size = 65536")


@fault("LlamacppExporterDeaf")
def the_exporter_may_not_read_the_journal(guest: Guest) -> Iterator[None]:
    drop = f"/run/systemd/system/{EXPORTER}.d"
    without = f"printf '[Service]\\nSupplementaryGroups=\\n' >{drop}/deaf.conf"
    guest.run(f"mkdir -p {drop} && {without} && systemctl daemon-reload && systemctl restart {EXPORTER}")
    yield
    guest.run(f"rm -r {drop} && systemctl daemon-reload && systemctl restart {EXPORTER}")


@fault("LlamacppModelsDiskFull")
def the_disk_is_filled(guest: Guest) -> Iterator[None]:
    """A small one, in the place of the models'; it is looked at every 15 seconds."""
    guest.run(f"mount -t tmpfs -o size=64m,mode=755 full {FOLDER} && fallocate --length 63M {FOLDER}/part")
    yield
    guest.run(f"rm {FOLDER}/part")
    until(lambda: not guest.fires("LlamacppModelsDiskFull"))
    guest.run(f"umount {FOLDER}")


@fault("LlamacppRestarts")
def the_router_is_killed_again_and_again(guest: Guest) -> Iterator[None]:
    """systemd waits ten seconds before each restart; here less, and no limit of how often."""
    drop = "/run/systemd/system/llama-router.service.d"
    guest.run(f"mkdir -p {drop} && printf '[Service]\\nRestartSec=1\\n' >{drop}/often.conf && systemctl daemon-reload")
    count = "systemctl show llama-router --property NRestarts --value"
    for _time in range(4):
        before = guest.run(count)
        guest.run("systemctl kill --signal KILL --kill-whom main llama-router")
        until(lambda before=before: guest.run(count) != before)
        until(lambda: guest.run("systemctl is-active llama-router", check=False).startswith("active"))
    yield
    guest.run(f"rm -r {drop} && systemctl daemon-reload")


@fault("LlamacppDriverMismatch")
def the_kernel_module_was_updated(guest: Guest) -> Iterator[None]:
    """The guest has Debian's libraries, and the lab's made-up module another version than they."""
    version = guest.run("readlink -f /usr/lib/*/libnvidia-ml.so.1").rpartition(".so.")[2]
    subprocess.run([LAB, "gpu", "two-3090s", "1.2.3"], check=True)
    yield
    subprocess.run([LAB, "gpu", "two-3090s", version], check=True)


HANGS = r"""set -e
mkdir -p /run/hangs /run/systemd/system/llama-router-exporter.service.d
printf '#!/bin/sh\ntrap "" TERM\nwhile :; do sleep 1; done\n' >/run/hangs/nvidia-smi
chmod 0755 /run/hangs /run/hangs/nvidia-smi
printf '[Service]\nEnvironment=PATH=/run/hangs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' \
  >/run/systemd/system/llama-router-exporter.service.d/hangs.conf
systemctl daemon-reload
systemctl restart llama-router-exporter
"""


@fault("LlamacppGpuReadingStale")
def nvidia_smi_hangs_and_ignores_sigterm(guest: Guest) -> Iterator[None]:
    guest.run("sh -s", HANGS.encode())
    yield
    guest.run("rm -r /run/hangs /run/systemd/system/llama-router-exporter.service.d; systemctl daemon-reload")
    guest.run(f"systemctl restart {EXPORTER}")


def _running(guest: Guest, model: str) -> bool:
    status = {entry["id"]: entry["status"]["value"] for entry in guest.ask("/models")["data"]}
    return status[model] != "unloaded"


def _edited(guest: Guest, line: str) -> Iterator[None]:
    """A preset of alpha, by hand, which the router is told to read."""
    option = line.partition(" ")[0]
    edit = f"/^\\[alpha\\]/,/^$/ {{ /^{option} /d }}; s/^\\[alpha\\]/&\\n{line}/"
    guest.run(f"cp -p {PRESETS} /root/presets && sed -i '{edit}' {PRESETS}")
    guest.ask("/models?reload=1")
    guest.complete("alpha")
    yield
    guest.run(f"cp -p /root/presets {PRESETS}")
    guest.ask("/models?reload=1")
    guest.complete("alpha")
