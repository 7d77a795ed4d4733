# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One of the module_utils with all that it imports of them, as one file that Python runs (a zip application).

So what lives on a guest is made of the same engines as the modules, and of the same version.
"""

from __future__ import annotations

import ast
import io
import sys
import zipfile
from types import ModuleType

PACKAGE = "ansible_collections.homelab.llamacpp.plugins.module_utils"
# Isolated: neither the caller's environment nor the folder that it stands in decides what is imported.
SHEBANG = b"#!/usr/bin/python3 -I\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # so that the same sources are the same bytes


def pack(module: ModuleType) -> bytes:
    """An executable file that calls the module's `main(arguments: list[str]) -> int` and exits with what it returns."""
    sources: dict[str, str] = {}
    _collect(module.__name__, sources)
    files = {f"{name.replace('.', '/')}.py": source for name, source in sources.items()}
    folders = PACKAGE.split(".")
    files.update({"/".join([*folders[: i + 1], "__init__.py"]): "" for i in range(len(folders))})
    files["__main__.py"] = f"import sys\n\nfrom {module.__name__} import main\n\nsys.exit(main(sys.argv[1:]))\n"
    content = io.BytesIO(SHEBANG)
    content.seek(0, io.SEEK_END)
    with zipfile.ZipFile(content, "a") as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path, _LONG_AGO), files[path])
    return content.getvalue()


def _collect(name: str, sources: dict[str, str]) -> None:
    if name in sources:
        return
    sources[name] = _source(name)
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            for alias in node.names:
                _collect(f"{PACKAGE}.{alias.name}", sources)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            _collect(str(node.module), sources)


def _source(name: str) -> str:
    """Also from within the zip file as which Ansible sends a module to its target."""
    loader = sys.modules[name].__spec__.loader  # type: ignore[union-attr]  # whatever was imported has a spec
    source: str = loader.get_source(name)  # type: ignore[union-attr]  # files' and zip files' loaders have it
    return source
