"""Compressed bodies: read as those that are not, within the same bounds."""

import gzip
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest, RequestCancelled, TooLarge, UnsupportedEncoding
from services.gateway.api.compression import LARGEST_WINDOW_BYTES, MOST_FRAMES, decompressor
from services.gateway.api.json_body import read_body
from tests.fixtures.gateway import a_gateway

LIMIT = 1024 * 1024
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}


async def read(body: bytes, encoding: str, *, limit: int = LIMIT, piece: int = 1000) -> bytes:
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    return await read_body(receive, {"content-encoding": encoding}, limit)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", " zstd "])
@pytest.mark.parametrize("piece", [1, 700, LIMIT])
async def test_what_was_compressed_is_read(encoding: str, piece: int) -> None:
    text = random.Random(1).randbytes(3000) + bytes(5000)
    compress = zstandard.compress if "zstd" in encoding else gzip.compress
    assert await read(compress(text), encoding, piece=piece) == text


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_several_frames_are_one_body(encoding: str) -> None:
    compress = COMPRESS[encoding]
    assert await read(compress(b"a") + compress(b"") + compress(b"bc"), encoding) == b"abc"
    assert await read(compress(b"a") + compress(b"bc"), encoding, piece=1) == b"abc"


async def test_frames_that_do_not_tell_their_size_are_read() -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    assert await read(stream.compress(b"hello") + stream.flush(), "zstd") == b"hello"


async def test_no_body_is_none_in_any_encoding() -> None:
    for encoding in ("gzip", "zstd", "identity", ""):
        assert await read(b"", encoding) == b""


@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, zstd", "gzip;q=1", "compress"])
async def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        await read(b"x", encoding)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("piece", [1, LIMIT])
async def test_broken_data_is_refused(encoding: str, piece: int) -> None:
    whole = COMPRESS[encoding](b"some text" * 100)
    for broken in (b"{}", whole + b"garbage", whole + whole[:-1], whole[:-1], whole[:2], b"\0" + whole):
        with pytest.raises(InvalidRequest, match=encoding):
            await read(broken, encoding, piece=piece)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_limit_is_that_of_the_opened_body(encoding: str) -> None:
    compress = COMPRESS[encoding]
    assert len(await read(compress(bytes(LIMIT)), encoding)) == LIMIT
    for bomb in (bytes(LIMIT + 1), bytes(300 * LIMIT)):
        with pytest.raises(TooLarge):
            await read(compress(bomb), encoding, piece=LIMIT)
    with pytest.raises(TooLarge):
        await read(compress(os.urandom(2000)), encoding, limit=2000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_frames_without_end_are_refused(encoding: str) -> None:
    empty = COMPRESS[encoding](b"")
    assert await read(empty * MOST_FRAMES, encoding) == b""
    with pytest.raises(InvalidRequest, match="frames"):
        await read(empty * (MOST_FRAMES + 1), encoding)


async def test_zstd_that_needs_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=LARGEST_WINDOW_BYTES.bit_length(), strategy=1)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(InvalidRequest, match="zstd"):
        await read(stream.compress(b"small") + stream.flush(), "zstd")


@given(data=st.data())
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_no_bytes_do_more_than_be_refused(encoding: str, data: st.DataObject) -> None:
    body = bytearray(COMPRESS[encoding](data.draw(st.binary(max_size=200))))
    for position, value in data.draw(st.dictionaries(st.integers(0, len(body) - 1), st.integers(0, 255))).items():
        body[position] = value
    opened = decompressor(encoding, 1000)
    assert opened is not None
    with suppress(InvalidRequest, TooLarge):
        assert len(opened.feed(bytes(body) + data.draw(st.binary(max_size=20)))) <= 1000
        opened.check_end()


async def test_clients_that_go_away_are_seen() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(RequestCancelled):
        await read_body(receive, {"content-encoding": "gzip"}, LIMIT)


@pytest.mark.parametrize("path", ["/api/generate", "/api/v1/inference/generate"])
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_every_door_of_json_reads_them(path: str, encoding: str) -> None:
    body = COMPRESS[encoding](json.dumps({"model": "m", "prompt": "hi", "stream": False}).encode())
    async with a_gateway() as gateway, gateway.client(**{"Content-Encoding": encoding}) as http:
        response = await http.post(path, content=body)
        if path.startswith("/api/v1"):
            assert response.status_code == 401  # its callers have keys
            return
        assert response.json()["response"] == "Hello"
        assert gateway.task.prompt == "hi"
        assert (await http.post(path, content=b"not it")).status_code == 400


async def test_bodies_that_are_kept_as_they_are_must_not_be_compressed() -> None:
    async with a_gateway() as gateway, gateway.client(**{"Content-Encoding": "gzip"}) as http:
        for path in ("/v1/files", f"/api/blobs/sha256:{'0' * 64}"):
            response = await http.post(path, content=gzip.compress(b"x"))
            assert response.status_code == 415, path
            assert "must not be compressed" in response.text
