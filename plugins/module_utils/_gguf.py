# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the header of a GGUF file: its metadata, and the name, type and shape of each tensor.

The vocabulary, which is most of a header, is passed over without being kept. The file may be anything, so each count
and length is held against what the file still has, and against the limits below, before it is used; whatever is wrong
with it is a GGUFError.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, Union

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

# ggml's tensor types: number, name, elements of a block, bytes of a block. These are the answers of ggml_type_name,
# ggml_blck_size and ggml_type_size in libggml-base 0.27.0 (llama.cpp build 11669), for all numbers below its
# GGML_TYPE_COUNT of 43; the ones left out are types that ggml has removed.
TENSOR_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_K", 256, 84),
    11: ("q3_K", 256, 110),
    12: ("q4_K", 256, 144),
    13: ("q5_K", 256, 176),
    14: ("q6_K", 256, 210),
    15: ("q8_K", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
    42: ("q2_0", 64, 18),
}

BEGINNING = 8  # bytes: the magic number and the version
MAX_HEADER = 128 << 20  # bytes; the largest vocabularies of today make 20 MiB
MAX_ENTRIES = 1 << 16  # keys, and tensors; the largest models have some thousands
MAX_KEPT = 4 << 20  # bytes of names, texts and arrays, as they lie in memory
MAX_ITEMS = 4096  # of an array that is kept: one entry a layer, or a few
ITEM = 40  # bytes that an item of a kept array takes in Python
CHUNK = 1 << 18  # bytes read at once
MAX_SHARDS = 1024
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS

STRING, ARRAY = 8, 9
NUMBERS = {
    number: (name, struct.Struct("<" + code))
    for number, (name, code) in {
        0: ("u8", "B"),
        1: ("i8", "b"),
        2: ("u16", "H"),
        3: ("i16", "h"),
        4: ("u32", "I"),
        5: ("i32", "i"),
        6: ("f32", "f"),
        7: ("bool", "?"),
        10: ("u64", "Q"),
        11: ("i64", "q"),
        12: ("f64", "d"),
    }.items()
}
U32, U64 = NUMBERS[4][1], NUMBERS[10][1]

SHARD = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


class GGUFError(ValueError):
    """The file cannot be read as GGUF; the text names the file, what is wrong with it and what mends it."""


class Array(NamedTuple):
    """An array of the metadata. `items` is None for texts and for more than MAX_ITEMS numbers, which are not kept."""

    type: str
    length: int
    items: tuple[Any, ...] | None


Value = Union[bool, int, float, str, Array]


class Tensor(NamedTuple):
    """One tensor: `shape` with the row's length first, as ggml counts; `size` and `offset` in bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int  # from the beginning of the tensor data


class Header(NamedTuple):
    """One file. `complete` says whether the file reaches to the end of its last tensor."""

    version: int
    metadata: dict[str, Value]
    tensors: list[Tensor]
    data_offset: int  # bytes
    file_size: int  # bytes
    complete: bool


class Model(NamedTuple):
    """A model of one file or of several shards: the metadata of the first, the tensors of all that are there."""

    metadata: dict[str, Value]
    tensors: list[Tensor]
    files: list[str]  # paths, in the shards' order
    missing: list[str]  # paths of shards that are not there
    size: int  # bytes on disk
    complete: bool


class _Reader:
    """Walks through a file's header in small pieces and never beyond what may be there."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._buffer = b""
        self._start = 0  # of the buffer in the file
        self._at = 0  # in the buffer
        self._kept = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def check(self, count: int, what: str) -> None:
        """Refuse to go on when the next `count` bytes cannot be part of the header."""
        end = self.position + count
        if end > self._size:
            raise GGUFError(
                f"its header is cut off or damaged: {what} at byte {self.position} needs {count} bytes, the file has"
                f" {self._size}; download it again"
            )
        if end > MAX_HEADER:
            raise GGUFError(
                f"its header is damaged: with {what} at byte {self.position} it is longer than {MAX_HEADER >> 20} MiB"
            )

    def take(self, count: int, what: str) -> bytes:
        self.check(count, what)
        if self._at + count > len(self._buffer):
            self._start, self._buffer, self._at = self.position, self._buffer[self._at :], 0
            self._buffer += self._file.read(max(CHUNK, count) - len(self._buffer))
            if count > len(self._buffer):
                raise GGUFError("it became shorter while it was read")
        self._at += count
        return self._buffer[self._at - count : self._at]

    def skip(self, count: int, what: str) -> None:
        self.check(count, what)
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self._start, self._buffer, self._at = self.position + count, b"", 0
            self._file.seek(self._start)

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over so many strings. All the time of reading a header goes here, so the loop is as short as can be."""
        length = U64.unpack_from
        while count:
            self.check(8 * count, what)
            self.take(8, what)
            self._at -= 8  # at least one length is in the buffer now
            buffer, at, done = self._buffer, self._at, 0
            try:
                for done in range(count):  # noqa: B007  (read below, when the buffer has ended)
                    at += 8 + length(buffer, at)[0]
                done = count
            except (struct.error, OverflowError):
                pass  # the next length is behind the end of the buffer
            count -= done
            self.skip(at - self._at, what)

    def number(self, kind: struct.Struct, what: str) -> Any:
        return kind.unpack(self.take(kind.size, what))[0]

    def text(self, what: str) -> str:
        count = self.number(U64, f"the length of {what}")
        self.check(count, what)
        self.keep(count, what)
        return self.take(count, what).decode("utf-8", "replace")

    def keep(self, size: int, what: str) -> None:
        self._kept += size
        if self._kept > MAX_KEPT:
            raise GGUFError(f"its header is damaged: with {what} there is more to keep than {MAX_KEPT >> 20} MiB")

    def entries(self, least: int, what: str) -> int:
        """A number of keys or tensors, each of `least` bytes or more."""
        count: int = self.number(U64, f"the number of {what}")
        self.check(count * least, f"a header of {count} {what}")
        if count > MAX_ENTRIES:
            raise GGUFError(f"its header is damaged: it says that it has {count} {what}")
        return count

    def value(self, key: str) -> Value:
        what = f"the value of {printable(key)!r}"
        kind = self.number(U32, what)
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(key, what)
        if kind not in NUMBERS:
            raise GGUFError(f"its header is damaged: {what} has the unknown type {kind}")
        result: Value = self.number(NUMBERS[kind][1], what)
        return result

    def array(self, key: str, what: str) -> Array:
        kind = self.number(U32, what)
        count = self.number(U64, what)
        if kind == STRING:
            self.skip_texts(count, what)
            return Array("string", count, None)
        if kind not in NUMBERS:
            raise GGUFError(f"its header is damaged: {what} is an array of the type {kind}, which no array can hold")
        name, single = NUMBERS[kind]
        if count > MAX_ITEMS or key.startswith("tokenizer."):
            self.skip(count * single.size, what)
            return Array(name, count, None)
        self.keep(count * ITEM, what)
        data = self.take(count * single.size, what)
        return Array(name, count, tuple(item for (item,) in single.iter_unpack(data)))

    def tensor(self, number: int, expected: int) -> Tensor:
        name = self.text(f"the name of tensor {number}")
        what = f"the tensor {printable(name)!r}"
        dimensions = self.number(U32, what)
        if dimensions > MAX_DIMENSIONS:
            raise GGUFError(f"its header is damaged: {what} has {dimensions} dimensions, {MAX_DIMENSIONS} is the most")
        shape = tuple(self.number(U64, what) for _dimension in range(dimensions))
        kind = self.number(U32, what)
        offset = self.number(U64, what)
        if kind not in TENSOR_TYPES:
            raise GGUFError(
                f"{what} has the type {kind}, which ggml has removed or has come after build 11669; found in a newer"
                " llama.cpp's ggml.h it belongs into this collection's table, otherwise convert the model again"
            )
        type_name, block, block_size = TENSOR_TYPES[kind]
        elements = 1
        for length in shape:
            elements *= length
        row = shape[0] if shape else 1
        if row % block or elements >> 63:
            raise GGUFError(
                f"its header is damaged: {what} of the type {type_name} cannot have the shape {list(shape)}"
            )
        if offset != expected:
            raise GGUFError(f"its header is damaged: {what} begins at {offset} where {expected} was expected")
        return Tensor(name, type_name, shape, elements // block * block_size, offset)


def pad(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _begin(reader: _Reader) -> int:
    """The version, after the four bytes that every GGUF file begins with."""
    magic = reader.take(4, "the magic number")
    if magic != b"GGUF":
        hint = {b"vers": " (a Git LFS pointer?)", b"<!DO": " (a web page?)", b"<htm": " (a web page?)"}.get(magic, "")
        raise GGUFError(
            f"it is not a GGUF file: it begins with {magic!r}{hint}; download the model's .gguf file itself"
        )
    version: int = reader.number(U32, "the version")
    if version and version & 0xFFFF == 0:
        raise GGUFError(
            "it is a big-endian GGUF file, which this machine's llama.cpp cannot load: convert it to little-endian"
        )
    if version == 1:
        raise GGUFError("it is of GGUF version 1, which llama.cpp does not read any more: convert or download it again")
    if version not in (2, 3):
        raise GGUFError(f"it is of GGUF version {version}, this reads 2 and 3")
    return version


def _header(reader: _Reader, file_size: int) -> Header:
    version = _begin(reader)
    tensor_count = reader.entries(24, "tensors")
    key_count = reader.entries(13, "keys")
    metadata: dict[str, Value] = {}
    for number in range(key_count):
        key = reader.text(f"the name of key {number}")
        if key in metadata:
            raise GGUFError(f"its header is damaged: it has the key {printable(key)!r} twice")
        metadata[key] = reader.value(key)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= CHUNK or alignment & (alignment - 1):
        raise GGUFError(
            f"its header is damaged: general.alignment must be a power of two, found: {printable(repr(alignment))}"
        )
    tensors: dict[str, Tensor] = {}
    end = 0
    for number in range(tensor_count):
        tensor = reader.tensor(number, pad(end, alignment))
        if tensor.name in tensors:
            raise GGUFError(f"its header is damaged: it has the tensor {printable(tensor.name)!r} twice")
        tensors[tensor.name] = tensor
        end = tensor.offset + tensor.size
    data_offset = pad(reader.position, alignment)
    complete = not tensors or data_offset + end <= file_size
    return Header(version, metadata, list(tensors.values()), data_offset, file_size, complete)


def check_beginning(data: bytes) -> None:
    """Refuse what no GGUF file begins with, by its first BEGINNING bytes. Raises GGUFError."""
    _begin(_Reader(io.BytesIO(data), len(data)))


def header_of(file: BinaryIO, size: int) -> Header:
    """The header of a file of `size` bytes, open at its beginning. Raises GGUFError, and what the file raises."""
    return _header(_Reader(file, size), size)


def read_header(path: str) -> Header:
    """The header of one file. Raises GGUFError when it cannot be read or is not what it should be."""
    try:
        # Not blocking, so that a pipe with that name does not hold us.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise GGUFError("it is not a regular file")
            return header_of(file, status.st_size)
    except OSError as error:
        raise GGUFError(f"{path}: it cannot be read: {error.strerror}") from error
    except GGUFError as error:
        raise GGUFError(f"{path}: {error}") from None


def shard_paths(path: str, count: int) -> list[str]:
    """The paths of all shards of the model that `path` is one of, by their names, as the server finds them."""
    match = SHARD.fullmatch(os.path.basename(path))
    if match is None or int(match["count"]) != count or not 1 <= int(match["number"]) <= count:
        raise GGUFError(
            f"{path}: it is one of {count} shards, and its name must end in -NNNNN-of-{count:05d}.gguf"
            " for the server to find the others; give it back its name"
        )
    folder = os.path.dirname(path)
    return [os.path.join(folder, f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _split(header: Header, key: str, default: int) -> int:
    value = header.metadata.get(f"split.{key}", default)
    return value if isinstance(value, int) else default


def read_model(
    path: str,
    read: Callable[[str], Header] = read_header,
    exists: Callable[[str], bool] = os.path.exists,
) -> Model:
    """The model that a file holds, or that it is a shard of. `read` and `exists` are for files that are elsewhere.

    Raises GGUFError as read_header does, and for shards that are not of one model. Shards that are not there are told
    in `missing`, but for the first one, without which nothing can be said: that is a GGUFError too.
    """
    header = read(path)
    count = _split(header, "count", 1)
    if count < 2:
        return Model(header.metadata, header.tensors, [path], [], header.file_size, header.complete)
    if count > MAX_SHARDS:
        raise GGUFError(f"{path}: its header is damaged: it says that it is one of {count} shards")
    paths = shard_paths(path, count)
    missing = [shard for shard in paths if not exists(shard)]
    if paths[0] in missing:
        raise GGUFError(f"{path}: the first shard of its model is not there, download it: {paths[0]}")
    files = [shard for shard in paths if shard not in missing]
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Value] = {}
    wanted, size, complete = 0, 0, not missing
    for shard in files:
        one = header if shard == path else read(shard)
        if shard == paths[0]:
            metadata, wanted = one.metadata, _split(one, "tensors.count", -1)
        size, complete = size + one.file_size, complete and one.complete
        if (_split(one, "no", -1), _split(one, "count", -1)) != (paths.index(shard), count):
            raise GGUFError(
                f"{shard}: by its metadata it is shard {_split(one, 'no', -1) + 1} of {_split(one, 'count', -1)};"
                " give it back its name, or download it again"
            )
        twice = next((tensor.name for tensor in one.tensors if tensor.name in tensors), None)
        if twice:
            raise GGUFError(
                f"{shard}: it has the tensor {printable(twice)!r}, which another shard has: they are not of one model"
            )
        tensors.update((tensor.name, tensor) for tensor in one.tensors)
        if len(tensors) > MAX_ENTRIES:
            raise GGUFError(f"{shard}: with it the model has more than {MAX_ENTRIES} tensors; its headers are damaged")
    if not missing and wanted not in (-1, len(tensors)):
        raise GGUFError(
            f"{paths[0]}: its shards have {len(tensors)} tensors, {wanted} were expected: download them again"
        )
    return Model(metadata, list(tensors.values()), files, missing, size, complete)
