# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn names from outside (a hub, a URL, a header, a record, a guest) into path components and printable text.

Every such name passes `component`, `below` or `component_of_url` before it becomes part of a path, and a recorded path
passes `below` again when the record is read.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

LONGEST = 255  # bytes of a path component on Linux file systems
DEEPEST = 4  # components of a path below a models directory: MODEL/draft/FILE is the deepest that the router reads
_SHOWN = 200  # characters of foreign text in a message
# A word that means itself in a unit, a shell command, nginx's configuration, nftables' and apt's.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
# A user alone is no secret for ssh; for https it may be a token.
_CREDENTIALS = re.compile(
    r"(?P<scheme>(?<![A-Za-z0-9+.-])(?!ssh://[^:/?#\s@]*@)[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\"']*@"
)
# Control characters, surrogates, and the separators that some readers take for the end of a line.
_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


class BadName(ValueError):
    """A name that cannot be a path component. The text says what was expected and what was found."""


def component(name: object, what: str = "a file name") -> str:
    """Return `name` if it is safe as one path component.

    Raises BadName for anything but a string, an empty name, `.`, `..`, a slash, NUL, control characters, line
    separators, surrogates, and more than 255 bytes of UTF-8.
    """
    if not isinstance(name, str):
        raise BadName(f"expected {what}, found {type(name).__name__}")
    if name in ("", ".", ".."):
        raise BadName(f"expected {what}, found {name!r}")
    if "/" in name:
        raise BadName(f"expected {what} without a slash, found {printable(name)!r}")
    # What is printable has none of the forbidden signs; that is the usual, and fast.
    if not name.isprintable() and any(unicodedata.category(sign) in _FORBIDDEN for sign in name):
        raise BadName(f"expected {what} of printable characters, found {printable(name)!r}")
    if len(name.encode()) > LONGEST:
        raise BadName(f"expected {what} of at most {LONGEST} bytes, found {len(name.encode())}")
    return name


def below(path: object, what: str = "a path below the directory", deepest: int = DEEPEST) -> str:
    """Return `path` if it is relative and each of its components is safe. Raises BadName."""
    if not isinstance(path, str):
        raise BadName(f"expected {what}, found {type(path).__name__}")
    parts = path.split("/")
    if len(parts) > deepest:
        raise BadName(f"expected {what} of at most {deepest} components, found {printable(path)!r}")
    for part in parts:
        component(part, what)
    return path


def component_of_url(url: str, what: str = "a file name at the end of the URL") -> str:
    """Return the last component of a URL's path, percent-decoded first and then checked. Raises BadName.

    `http://host/a/%2Fetc%2Fpasswd` is refused: its last component holds slashes.
    """
    try:
        path = urlsplit(url).path
    except ValueError as error:  # [ without ]
        raise BadName(f"expected a URL, found {printable(url)!r} ({printable(error)})") from None
    return component(unquote(path.rpartition("/")[2], errors="surrogateescape"), what)


def line(text: object, what: str = "one line of text") -> str:
    """Return `text` if it is one line for every reader: no control character but a tab, no separator, no surrogate.

    A carriage return ends a line for systemd and for llama-server, NUL ends the text. Raises BadName.
    """
    if not isinstance(text, str):
        raise BadName(f"expected {what}, found {type(text).__name__}")
    if any(sign != "\t" and unicodedata.category(sign) in _FORBIDDEN for sign in text):
        raise BadName(f"expected {what} without line ends and control characters, found {printable(text)!r}")
    return text


def plain(text: object, what: str = "a word", also: str = "") -> str:
    """Return `text` if it is one word that needs no quotes in any file that the roles write. Raises BadName.

    `also` has further characters that it may hold.
    """
    word = str(text)
    if word.startswith("-") or not _PLAIN.fullmatch("".join(sign for sign in word if sign not in also) or "x"):
        raise BadName(f"expected {what} of letters, digits and _ . / : @ + , = -, found {printable(word)!r}")
    if not word:
        raise BadName(f"expected {what}, found nothing")
    return word


def has_credentials(text: object) -> bool:
    """Whether there is a URL with a user or a password in the text."""
    return bool(_CREDENTIALS.search(str(text)))


def without_credentials(text: str, instead: str = "********") -> str:
    """Return the text with `instead` in the place of users and passwords of its URLs."""
    return _CREDENTIALS.sub(rf"\g<scheme>{instead}@", text)


def printable(text: object, most: int = _SHOWN) -> str:
    """Return foreign text for a message or a log: one line of at most `most` characters, all printable.

    Marks that reverse the text after them are not printable either.
    """
    short = str(text)[: most + 1]
    if short.isprintable() and len(short) <= most:  # the usual, and fast
        return short
    clean = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in short)
    return clean if len(clean) <= most else clean[:most] + "…"
