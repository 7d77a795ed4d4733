# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chromium without a window, used as a person does: clicked, typed at, read. It speaks DevTools over two pipes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any


def public_key(certificate: Path) -> str:
    """The hash of a certificate's public key, as Chromium names it."""
    pem = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"], check=True, capture_output=True)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem.stdout, check=True, capture_output=True
    )
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()


class Page:
    """One page of a Chromium of its own. `pictures` stay where PICTURES says, to be looked at.

    It trusts the certificate `trusted`, whoever signed it.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, trusted: Path | None = None) -> None:
        self._argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._argv += [f"--window-size={width},{height}", f"--user-data-dir={folder / 'chromium'}", "--lang=en-US"]
        if trusted:
            self._argv.append(f"--ignore-certificate-errors-spki-list={public_key(trusted)}")
        self.pictures = Path(os.environ.get("PICTURES", folder))
        self._last, self._buffer, self._session = 0, b"", ""
        self.errors: list[str] = []

    def __enter__(self) -> Page:
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        # It wants them as 3 and 4.
        line = f'exec "$@" 3<&{reads} 4>&{writes}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "chromium", *self._argv], pass_fds=(reads, writes), stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._do("Page.enable")
        self._do("Runtime.enable")
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, url: str) -> None:
        self._do("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is there."""
        answer = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 300) -> Any:
        """Its value as soon as it counts as true."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.value(expression)
            if found:
                return found
            if time.monotonic() >= deadline:
                self.picture("failed")
                raise AssertionError(f"{expression} does not become true; the page says: {self.text()}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click into the middle of the first such element that is to be seen."""
        seen = f"""[...document.querySelectorAll({json.dumps(selector)})].map(e => e.getBoundingClientRect())
            .filter(r => r.width && r.height).map(r => [r.x + r.width / 2, r.y + r.height / 2])[0]"""
        x, y = self.until(seen)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        self.click(selector)
        self._do("Input.insertText", text=text)

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._do("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def text(self, selector: str = "body") -> str:
        """What a person reads in the last such element."""
        found = self.value(f"[...document.querySelectorAll({json.dumps(selector)})].at(-1)?.innerText ?? ''")
        return " ".join(str(found).split())

    def picture(self, name: str) -> None:
        shot = self._do("Page.captureScreenshot", format="png")["data"]
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(shot))

    def _do(self, method: str, **params: Any) -> Any:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _write, _error = select.select([self._read], [], [], 300)
            assert ready, "Chromium says nothing more"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        text, _end, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message
