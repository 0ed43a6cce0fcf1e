"""Files that promise more than they have, or more than anybody needs, are refused before that costs anything."""

import struct
from pathlib import Path

import pytest

from services.registry import gguf_file

UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9
MANY = 1 << 62


def text(content: str, size: int | None = None) -> bytes:
    encoded = content.encode()
    return struct.pack("<Q", len(encoded) if size is None else size) + encoded


def key(name: str, value_type: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", value_type) + value


def array(item_type: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", item_type, count) + items


def tensor(name: str = "t", shape: tuple[int, ...] = (4,), tensor_type: int = 0, offset: int = 0) -> bytes:
    sides = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sides + struct.pack("<IQ", tensor_type, offset)


def header(*keys: bytes, key_count: int | None = None, tensors: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(keys) if key_count is None else key_count)
    return b"GGUF" + counts + b"".join(keys) + b"".join(tensors)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(content)
    return path


WRONG = {
    "nothing": b"",
    "another format": b"GGML" + bytes(100),
    "an old version": header(version=1),
    "keys that are not there": header(key_count=1_000),
    "more keys than anybody has": header(key_count=MANY),
    "more tensors than anybody has": b"GGUF" + struct.pack("<IQQ", 3, MANY, 0),
    "a key longer than the file": header(text("", MANY), key_count=1),
    "a text longer than the file": header(key("a", STRING, text("", MANY))),
    "a key of no known type": header(key("a", 99, b"")),
    "a key twice": header(key("a", UINT8, b"1"), key("a", UINT8, b"2")),
    "an array longer than the file": header(key("a", ARRAY, array(UINT8, 3_000_000))),
    "texts that are not there": header(key("a", ARRAY, array(STRING, 3_000_000))),
    "an array longer than anybody needs": header(key("a", ARRAY, array(UINT8, 5_000_000, bytes(5_000_000)))),
    "long arrays together": header(
        *(key(name, ARRAY, array(UINT8, 1_500_000, bytes(1_500_000))) for name in ("a", "b", "c"))
    ),
    "arrays of arrays": header(key("a", ARRAY, array(ARRAY, 1) * 50_000 + array(UINT8, 0))),
    "long texts": header(key("a", STRING, text("x" * 3_000_000)), key("b", STRING, text("x" * 3_000_000))),
    "an alignment of none": header(key("general.alignment", UINT32, bytes(4))),
    "an alignment that is a text": header(key("general.alignment", STRING, text("32"))),
    "a tensor without its data": header(tensors=(tensor(),)),
    "a tensor beyond the end": header(tensors=(tensor(offset=MANY),)) + bytes(100),
    "a tensor larger than all memory": header(tensors=(tensor(shape=(MANY,) * 4),)) + bytes(100),
    "a tensor of many dimensions": header(tensors=(tensor(shape=(1,) * 5),)) + bytes(100),
    "a tensor of no known type": header(tensors=(tensor(tensor_type=9999),)) + bytes(100),
    "a tensor of broken blocks": header(tensors=(tensor(tensor_type=8),)) + bytes(1000),
    "a tensor twice": header(tensors=(tensor(), tensor())) + bytes(1000),
}


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused(tmp_path: Path, content: bytes, arrays: bool) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        gguf_file.read(write(tmp_path, content), arrays=arrays)


def test_keys_arrays_and_tensors(tmp_path: Path) -> None:
    content = header(
        key("number", UINT32, struct.pack("<I", 7)),
        key("text", STRING, text("é")),
        key("bytes", ARRAY, array(UINT8, 2, b"\x01\x02")),
        key("many", ARRAY, array(UINT8, 1025, bytes(1025))),
        key("texts", ARRAY, array(STRING, 2, text("a") + text(""))),
        tensors=(tensor("w", (32, 2), 8),),
    )
    path = write(tmp_path, content + bytes(200))
    found = gguf_file.read(path, arrays=True)
    small = {"number": 7, "text": "é", "bytes": [1, 2]}
    assert found.values == {**small, "many": [0] * 1025, "texts": ["a", ""]}
    assert [(tensor.name, tensor.type.name, tensor.shape) for tensor in found.tensors] == [("w", "Q8_0", (32, 2))]
    assert gguf_file.read(path, arrays=False).values == {**small, "many": None, "texts": None}
