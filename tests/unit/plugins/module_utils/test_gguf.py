# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import struct
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as gguf_package
import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import (
    Array,
    GGUFError,
    Header,
    read_header,
    read_model,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

HEADERS = Path(__file__).parents[3] / "fixtures" / "gguf_headers"

# Each fixture's architecture, number of tensors, and MiB of weights that libllama puts on one device: all its tensors
# without the token embedding, unless that serves as the output too. A type's size that is wrong would show here.
REAL = {
    "DeepSeek-V2-Lite-Q4_K_M": ("deepseek2", 404, 9771.342),
    "Granite-4.0-H-Tiny-Q4_K_M": ("granitehybrid", 666, 4031.551),
    "Llama-3.1-70B-Q4_K_M": ("llama", 724, 39979.485),
    "Llama-3.2-3B-Q4_K_M": ("llama", 255, 1918.354),
    "Qwen3-1.7B-Q4_K_M": ("qwen3", 310, 1050.432),
    "Qwen3-30B-A3B-Q4_K_M": ("qwen3moe", 579, 17524.42),
    "Qwen3-8B-Q4_K_M": ("qwen3", 399, 4455.344),
    "gemma-3-4b-Q4_K_M": ("gemma3", 444, 2368.182),
    "gpt-oss-20b-mxfp4": ("gpt-oss", 459, 10949.353),
}

# --- a writer of its own, so that it can lie --------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


def array(name: str, kind: int, length: int, items: bytes) -> bytes:
    return key(name, 9, struct.pack("<IQ", kind, length) + items)


def tensor(name: str, offset: int = 0, shape: tuple[int, ...] = (32,), kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    keys: list[bytes], tensors: list[bytes], *, version: int = 3, data: int = 0, counts: tuple[int, int] | None = None
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def read(path: Path, content: bytes) -> Header:
    path.write_bytes(content)
    return read_header(str(path))


# --- real headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_header(name: str) -> None:
    header = read_header(str(HEADERS / f"{name}.gguf"))
    architecture, count, weights = REAL[name]
    assert header.metadata["general.architecture"] == architecture
    assert len(header.tensors) == count
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    on_device = sum(sizes.values()) - ("output.weight" in sizes and sizes["token_embd.weight"])
    assert round(on_device / (1 << 20), 3) == pytest.approx(weights, abs=0.0011)
    assert header.data_offset == header.file_size
    assert header.complete is False


def test_a_header_with_its_data_is_complete_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes((HEADERS / "Qwen3-8B-Q4_K_M.gguf").read_bytes())
    header = read_header(str(path))
    last = header.tensors[-1]
    size = header.data_offset + last.offset + last.size
    os.truncate(path, size - 1)
    assert read_header(str(path)).complete is False
    os.truncate(path, size)  # sparse
    assert read_header(str(path)) == header._replace(complete=True, file_size=size)


# --- what is read -----------------------------------------------------------------------------------------------


def test_every_kind_of_value(path: Path) -> None:
    values = {
        0: ("B", 255),
        1: ("b", -1),
        2: ("H", 65535),
        3: ("h", -2),
        4: ("I", 1 << 31),
        5: ("i", -3),
        6: ("f", 0.5),
        7: ("?", True),
        10: ("Q", 1 << 63),
        11: ("q", -4),
        12: ("d", 0.25),
    }
    keys = [key(f"k{kind}", kind, struct.pack("<" + code, value)) for kind, (code, value) in values.items()]
    keys += [key("text", 8, text("gr\u00fc\u00df dich")), key("bytes", 8, text(b"\xff"))]
    metadata = read(path, gguf(keys, [])).metadata
    assert metadata == {
        **{f"k{kind}": value for kind, (_code, value) in values.items()},
        "text": "gr\u00fc\u00df dich",
        "bytes": "\ufffd",
    }
    assert metadata["k7"] is True


def test_short_arrays_are_kept_long_ones_and_the_vocabulary_are_not(path: Path) -> None:
    keys = [
        array("heads", 4, 3, struct.pack("<3I", 8, 0, 8)),
        array("pattern", 7, 2, b"\x01\x00"),
        array("long", 0, 5000, bytes(5000)),
        array("tokenizer.ggml.tokens", 8, 3, text("a") + text("") + text("bc" * 200_000)),
        array("tokenizer.ggml.scores", 6, 3, bytes(12)),
        number("last", 7),
    ]
    assert read(path, gguf(keys, [])).metadata == {
        "heads": Array("u32", 3, (8, 0, 8)),
        "pattern": Array("bool", 2, (True, False)),
        "long": Array("u8", 5000, None),
        "tokenizer.ggml.tokens": Array("string", 3, None),
        "tokenizer.ggml.scores": Array("f32", 3, None),
        "last": 7,
    }


@settings(deadline=None)
@given(st.lists(st.integers(0, 70_000), max_size=40))
def test_texts_of_any_length_are_passed_over(lengths: list[int]) -> None:
    """Their ends fall before, on and behind the ends of the pieces that are read."""
    content = gguf([array("a", 8, len(lengths), b"".join(text(bytes(n)) for n in lengths)), number("last", 7)], [])
    with temporary(content) as path:
        assert read_header(path).metadata == {"a": Array("string", len(lengths), None), "last": 7}


def test_tensors_of_every_type(path: Path) -> None:
    tensors, expected, offset = [], [], 0
    for kind, (name, block, size) in _gguf.TENSOR_TYPES.items():
        tensors.append(tensor(f"t{kind}", offset, (block * 2, 3), kind))
        expected.append((f"t{kind}", name, (block * 2, 3), size * 6, offset))
        offset += -(-size * 6 // 32) * 32
    header = read(path, gguf([], tensors, data=offset))
    assert [tuple(tensor) for tensor in header.tensors] == expected
    assert header.complete is True


def test_the_alignment_is_the_files_own(path: Path) -> None:
    header = read(path, gguf([number("general.alignment", 128)], [tensor("a"), tensor("b", 128)], version=2))
    assert header.data_offset % 128 == 0
    assert [tensor.offset for tensor in header.tensors] == [0, 128]
    assert header.version == 2


def test_no_tensors_and_no_dimensions(path: Path) -> None:
    assert read(path, gguf([], [])).complete is True
    assert read(path, gguf([], [tensor("scalar", shape=())])).tensors[0].size == 4


# --- what is refused --------------------------------------------------------------------------------------------

FOREVER = 1 << 60


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut off or damaged: the magic number at byte 0 needs 4 bytes, the file has 0; download it again"),
        (b"version https://git-lfs", r"not a GGUF file: it begins with b'vers' \(a Git LFS pointer\?\)"),
        (b"<!DOCTYPE html>", r"\(a web page\?\)"),
        (b"ggjt\3\0\0\0", "not a GGUF file: it begins with b'ggjt'; download the model's .gguf file itself"),
        (b"GGUF\0\0\0\3" + bytes(16), "big-endian GGUF file"),
        (gguf([], [], version=1), "GGUF version 1, which llama.cpp does not read any more: convert or download it"),
        (gguf([], [], version=0), "GGUF version 0, this reads 2 and 3"),
        (gguf([], [], version=4), "GGUF version 4, this reads 2 and 3"),
        (gguf([], [], counts=(FOREVER, 0)), "a header of 1152921504606846976 tensors"),
        (gguf([], [], counts=(0, FOREVER)), "a header of 1152921504606846976 keys"),
        (gguf([], [], data=1 << 21, counts=(0, 70_000)), "it says that it has 70000 keys"),
        (gguf([], [], data=1 << 21, counts=(70_000, 0)), "it says that it has 70000 tensors"),
        (gguf([struct.pack("<Q", FOREVER)], [], data=64), "the name of key 0 at byte 32 needs 11529.* bytes"),
        (gguf([key("k", 8, struct.pack("<Q", FOREVER))], [], data=64), "the value of 'k' at byte"),
        (gguf([key("k", 8, text(bytes(5 << 20)))], []), "the value of 'k' there is more to keep than 4 MiB"),
        (gguf([key("k", 99, bytes(8))], []), "the value of 'k' has the unknown type 99"),
        (gguf([array("k", 4, FOREVER, b"")], [], data=64), "the value of 'k' at byte .* needs"),
        (gguf([array("k", 8, FOREVER, b"")], [], data=64), "the value of 'k' at byte .* needs"),
        (gguf([array("k", 8, 2, struct.pack("<QQ", FOREVER, 0))], [], data=64), "the value of 'k' at byte .* needs"),
        (gguf([array("k", 8, 1, struct.pack("<Q", (1 << 64) - 1))], [], data=64), "the value of 'k' at byte"),
        (gguf([array("k", 9, 1, bytes(12))], []), "array of the type 9, which no array can hold"),
        (gguf([array("k", 77, 1, bytes(12))], []), "array of the type 77"),
        (gguf([number("k", 1), number("k", 1)], []), "it has the key 'k' twice"),
        (gguf([number("general.alignment", 48)], []), "general.alignment must be a power of two, found: 48"),
        (gguf([number("general.alignment", 0)], []), "general.alignment must be a power of two, found: 0"),
        (gguf([key("general.alignment", 8, text("x"))], []), "must be a power of two, found: 'x'"),
        (gguf([], [tensor("a"), tensor("a", 128)]), "it has the tensor 'a' twice"),
        (gguf([], [tensor("a"), tensor("b", 96)]), "the tensor 'b' begins at 96 where 128 was expected"),
        (gguf([], [tensor("a", shape=(1,) * 5)]), "the tensor 'a' has 5 dimensions, 4 is the most"),
        (gguf([], [tensor("a", kind=4)]), "the tensor 'a' has the type 4, which ggml has removed or"),
        (gguf([], [tensor("a", kind=2, shape=(33,))]), r"the tensor 'a' of the type q4_0 cannot have the shape \[33\]"),
        (gguf([], [tensor("a", shape=(1 << 40, 1 << 40))]), "cannot have the shape"),
    ],
)
def test_a_lying_file_is_refused(path: Path, content: bytes, said: str) -> None:
    with pytest.raises(GGUFError, match=said) as caught:
        read(path, content)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_small_header_cut_anywhere_is_refused(path: Path) -> None:
    keys, tensors = [key("text", 8, text("value")), array("a", 8, 2, text("x") * 2)], [tensor("t")]
    end = 24 + sum(map(len, keys + tensors))
    content = gguf(keys, tensors)
    for size in range(end):
        path.write_bytes(content[:size])
        with pytest.raises(GGUFError, match="cut off or damaged"):
            read_header(str(path))
    path.write_bytes(content[:end])
    assert read_header(str(path)).complete is False


def test_an_endless_header_ends_at_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gguf, "MAX_HEADER", 1 << 20)
    path.write_bytes(gguf([array("k", 8, 1 << 30, b"")], [])[:-8])
    os.truncate(path, 1 << 40)  # a sparse file: 2 to the 30 empty texts, and room for more
    with pytest.raises(GGUFError, match="the value of 'k' at byte 49 it is longer than 1 MiB"):
        read_header(str(path))


def test_kept_arrays_are_bounded_in_sum(path: Path) -> None:
    content = gguf([array(f"k{number}", 0, 4096, bytes(4096)) for number in range(40)], [])
    with pytest.raises(GGUFError, match="there is more to keep than 4 MiB"):
        read(path, content)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, said in [("none.gguf", "No such file"), ("", "Is a directory"), ("pipe.gguf", "not a regular file")]:
        with pytest.raises(GGUFError, match=said):
            read_header(str(tmp_path / name))


# --- shards -----------------------------------------------------------------------------------------------------


def short(name: str, value: int) -> bytes:
    return key(name, 2, struct.pack("<H", value))


def shard(number_: int, count: int, names: list[str], total: int, data: int = 4096) -> bytes:
    keys = [short("split.no", number_), short("split.count", count), number("split.tensors.count", total)]
    if number_ == 0:
        keys.append(key("general.architecture", 8, text("llama")))
    return gguf(keys, [tensor(name, 128 * index) for index, name in enumerate(names)], data=data)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"big-model-{index:05d}-of-00003.gguf" for index in (1, 2, 3)]
    for index, path in enumerate(paths):
        path.write_bytes(shard(index, 3, [f"t{index}", f"u{index}"], 6))
    return paths


@pytest.mark.parametrize("given_shard", [0, 1, 2])
def test_shards_are_added_up_from_any_of_them(shards: list[Path], given_shard: int) -> None:
    model = read_model(str(shards[given_shard]))
    assert [tensor.name for tensor in model.tensors] == ["t0", "u0", "t1", "u1", "t2", "u2"]
    assert model.metadata["general.architecture"] == "llama"
    assert model.files == [str(path) for path in shards]
    assert model.missing == []
    assert model.size == sum(path.stat().st_size for path in shards)
    assert model.complete is True


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    model = read_model(str(shards[0]))
    assert model.missing == [str(shards[1])]
    assert model.complete is False
    assert len(model.tensors) == 4


def test_without_the_first_shard_nothing_can_be_said(shards: list[Path]) -> None:
    shards[0].unlink()
    with pytest.raises(GGUFError, match=f"the first shard of its model is not there, download it: {shards[0]}"):
        read_model(str(shards[2]))


def test_a_cut_shard_makes_the_model_incomplete(shards: list[Path]) -> None:
    shards[2].write_bytes(shard(2, 3, ["t2", "u2"], 6, data=0))
    model = read_model(str(shards[0]))
    assert (model.complete, model.missing) == (False, [])


@pytest.mark.parametrize(
    ("index", "content", "said"),
    [
        (
            1,
            shard(2, 3, ["t1", "u1"], 6),
            "00002-of-00003.gguf: by its metadata it is shard 3 of 3; give it back its name",
        ),
        (1, shard(1, 4, ["t1", "u1"], 6), "00002-of-00003.gguf: by its metadata it is shard 2 of 4"),
        (1, gguf([], [tensor("t1")]), "00002-of-00003.gguf: by its metadata it is shard 0 of -1"),
        (1, shard(1, 3, ["t0", "u1"], 6), "00002-of-00003.gguf: it has the tensor 't0', which another shard has"),
        (1, shard(1, 3, ["t1"], 6), "00001-of-00003.gguf: its shards have 5 tensors, 6 were expected"),
        (0, shard(0, 2, ["t0"], 6), "must end in -NNNNN-of-00002.gguf"),
        (1, b"GGUF", "00002-of-00003.gguf: its header is cut off"),
    ],
)
def test_shards_that_do_not_belong_together(shards: list[Path], index: int, content: bytes, said: str) -> None:
    shards[index].write_bytes(content)
    with pytest.raises(GGUFError, match=said):
        read_model(str(shards[0]))


def test_a_renamed_shard(shards: list[Path]) -> None:
    renamed = shards[0].rename(shards[0].with_name("model.gguf"))
    with pytest.raises(GGUFError, match=r"one of 3 shards, and its name must end in -NNNNN-of-00003.gguf"):
        read_model(str(renamed))


def test_one_file_is_a_model(path: Path) -> None:
    path.write_bytes(gguf([], [tensor("a")], data=128))
    model = read_model(str(path))
    assert (model.files, model.missing, model.complete) == ([str(path)], [], True)


# --- fuzzing ----------------------------------------------------------------------------------------------------


class temporary:
    """A file with some content for one example of a property; yields its path."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> str:
        descriptor, self.path = tempfile.mkstemp(suffix=".gguf")
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.content)
        return self.path

    def __exit__(self, *_exception: Any) -> None:
        os.unlink(self.path)


def survives(content: bytes) -> None:
    """Either it is read, or it is refused with the one error; in bounded memory."""
    said = None
    with temporary(content) as path:
        tracemalloc.start()
        try:
            read_model(path)
        except GGUFError as error:
            said = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert said is None or path in said
    assert peak < 32 << 20


SEEDS = [
    gguf(
        [key("general.architecture", 8, text("llama")), number("general.alignment", 32), short("split.count", 0)],
        [tensor("token_embd.weight", 0, (32, 4)), tensor("output.weight", 512, (32, 4), 8)],
    ),
    gguf([array("tokenizer.ggml.tokens", 8, 3, text("a") * 3), array("heads", 4, 2, bytes(8))], [], data=40),
    shard(0, 2, ["t"], 2),
]
EVIL = [
    0,
    1,
    4,
    8,
    9,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 60,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with a few bytes or counts overwritten, or cut, or with something put in between."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _change in range(draw(st.integers(1, 4))):
        at = draw(st.integers(4, len(content)))
        kind = draw(st.sampled_from(["byte", "count", "cut", "insert"]))
        if kind == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "count":
            content[at : at + 8] = struct.pack("<Q", draw(st.sampled_from(EVIL)))
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = draw(st.binary(max_size=16))
    return bytes(content)


@settings(max_examples=1000, deadline=None)
@given(damaged())
def test_a_damaged_file_gives_the_one_error(content: bytes) -> None:
    survives(content)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
@example(b"\3\0\0\0" + struct.pack("<QQ", 1, 1))
def test_random_bytes_behind_the_magic_number(content: bytes) -> None:
    survives(b"GGUF" + content)


@pytest.mark.parametrize(
    "content",
    [
        gguf([number("k\n" * 5000, 1)] * 2, []),
        gguf([key("k\r" * 5000, 99, b"")], []),
        gguf([], [tensor("t\x1b" * 5000, shape=(31,), kind=2)]),
        gguf([key("general.alignment", 8, text("a" * 9000))], []),
    ],
)
def test_an_error_shows_a_file_s_own_words_short_and_in_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(GGUFError) as error:
        read_header(str(path))
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


def test_shards_have_a_number_and_together_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def split(number: int, count: int, tensors: int) -> bytes:
        keys = [key("split.no", 4, struct.pack("<I", number)), key("split.count", 4, struct.pack("<I", count))]
        return gguf(keys, [tensor(f"{number}.{index}", 128 * index) for index in range(tensors)], data=128 * tensors)

    path = tmp_path / "m-00001-of-02000.gguf"
    path.write_bytes(split(0, 2000, 1))
    with pytest.raises(GGUFError, match="one of 2000 shards"):
        read_model(str(path))
    for number in range(2):
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(split(number, 2, 6))
    assert len(read_model(str(tmp_path / "m-00002-of-00002.gguf")).tensors) == 12
    monkeypatch.setattr(_gguf, "MAX_ENTRIES", 10)
    with pytest.raises(GGUFError, match="more than 10 tensors"):
        read_model(str(tmp_path / "m-00002-of-00002.gguf"))


def test_tensor_types_are_those_of_the_reference() -> None:
    """Number, name, elements and bytes of a block, of llama.cpp's own package."""
    reference = {
        kind.value: (kind.name.lower(), *gguf_package.GGML_QUANT_SIZES[kind])
        for kind in gguf_package.GGMLQuantizationType
    }
    # The package counts its two sums as 32-bit numbers; in ggml-common.h block_q8_1 has two of 16 bits.
    reference[9] = ("q8_1", 32, 2 + 2 + 32)
    ours = {kind: (name.lower(), *sizes) for kind, (name, *sizes) in _gguf.TENSOR_TYPES.items()}
    assert {kind: ours.get(kind) for kind in reference} == reference
    # Newer than the package: a 16-bit scale and two bits an element.
    newer = {42: ("q2_0", 64, 2 + 64 * 2 // 8)}
    assert {kind: ours[kind] for kind in ours.keys() - reference.keys()} == newer
