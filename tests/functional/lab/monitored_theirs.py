# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Prometheus that somebody had before: another process of Debian's, with a configuration and data of its own."""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

import yaml
from monitored_guest import FETCH, ROOT, Guest, until

FOLDER, UNIT, PORT = "/etc/theirs", "theirs.service", 9099
UNIT_FILE = f"""[Service]
ExecStart=/usr/bin/prometheus --config.file {FOLDER}/prometheus.yml --storage.tsdb.path /var/lib/theirs \\
    --web.listen-address 127.0.0.1:{PORT}
ExecReload=/bin/kill -HUP $MAINPID
[Install]
WantedBy=multi-user.target
"""
CONFIG: dict[str, Any] = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "rule_files": ["mine.yml"],
    "scrape_configs": [{"job_name": "mine", "static_configs": [{"targets": [f"127.0.0.1:{PORT}"]}]}],
}
RULES = {"groups": [{"name": "mine", "rules": [{"alert": "Mine", "expr": 'up{job="mine"} == 1'}]}]}


class Theirs:
    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.run(f"mkdir -p {FOLDER} /var/lib/theirs")
        self._put("prometheus.yml", CONFIG)
        self._put("mine.yml", RULES)
        guest.run(f"cat >/etc/systemd/system/{UNIT} && systemctl enable --quiet --now {UNIT}", UNIT_FILE.encode())
        until(lambda: self.up("mine"), "their Prometheus scrapes")

    def remove(self) -> None:
        self._guest.run(
            f"systemctl disable --quiet --now {UNIT}; rm -r /etc/systemd/system/{UNIT} /var/lib/theirs {FOLDER}"
        )

    def reads_ours(self) -> None:
        """Its owner adds the lines that docs/monitoring.md shows."""
        text = (ROOT / "docs/monitoring.md").read_text()
        (shown,) = re.findall(r"```yaml\n(rule_files: .*?)```", text, re.DOTALL)
        lines = yaml.safe_load(shown.replace("/etc/prometheus/", f"{FOLDER}/"))
        assert list(lines) == ["rule_files", "scrape_config_files"]
        added = {name: CONFIG.get(name, []) + entries for name, entries in lines.items()}
        self._put("prometheus.yml", {**CONFIG, **added})

    def role(self, *args: str, **variables: Any) -> str:
        places = {"llama_monitoring_prometheus_dir": FOLDER, "llama_monitoring_prometheus_unit": UNIT}
        return self._guest.play(
            "prometheus.yml", *args, llama_monitoring_prometheus_install=False, **places, **variables
        )

    def files(self) -> list[str]:
        return self._guest.run(f"ls {FOLDER}").split()

    def up(self, job: str) -> bool:
        return [value for _labels, value in self.query(f"up{{job='{job}'}}")] == ["1"]

    def fires(self, alert: str) -> bool:
        return bool(self.query(f"ALERTS{{alertname='{alert}', alertstate='firing'}}"))

    def query(self, text: str) -> list[tuple[dict[str, str], str]]:
        """The labels and the value of each series."""
        found = self._api(f"query?{urllib.parse.urlencode({'query': text})}")["result"]
        return [(entry["metric"], entry["value"][1]) for entry in found]

    def jobs(self) -> set[str]:
        """What it scrapes as it is configured now."""
        return set(self._api("scrape_pools").get("scrapePools", ()))

    def alerts(self) -> dict[str, set[str]]:
        """Of each rule file, the alerts that it has loaded and evaluated without an error."""
        groups = self._api("rules")["groups"]
        return {
            group["file"].rpartition("/")[2]: {rule["name"] for rule in group["rules"] if rule["health"] == "ok"}
            for group in groups
        }

    def _api(self, path: str) -> Any:
        try:
            told = self._guest.run(f"python3 -c \"{FETCH}\" 'http://127.0.0.1:{PORT}/api/v1/{path}'", check=False)
            return json.loads(told)["data"]
        except ValueError:
            return {"result": [], "groups": []}  # it does not answer yet

    def _put(self, name: str, content: dict[str, Any]) -> None:
        self._guest.run(f"cat >{FOLDER}/{name}", yaml.safe_dump(content).encode())
