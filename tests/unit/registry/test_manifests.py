import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest
from services.registry import manifests, names
from services.registry.blobs import Blob
from services.registry.manifests import CONFIG_TYPE, LARGEST_MANIFEST_BYTES, MOST_LAYERS, Layer, build, parse

CONFIG, WEIGHTS = Blob("sha256:" + "1" * 64, 10), Blob("sha256:" + "2" * 64, 20)
LAYER = Layer("application/vnd.ollama.image.model", WEIGHTS, "base")


def document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(build(CONFIG, (LAYER,)).text), **changes}


def test_what_is_built_is_parsed() -> None:
    built = build(CONFIG, (LAYER,))
    assert parse(built.text.encode()) == built
    assert built.digest == hashlib.sha256(built.text.encode()).hexdigest()
    assert (built.size, built.config.blob, built.of_type(LAYER.media_type)) == (30, CONFIG, (LAYER,))


def test_the_bytes_of_others_are_kept() -> None:
    text = json.dumps(document(annotations={"x": "y"}), indent=3)
    parsed = parse(text.encode())
    assert (parsed.text, parsed.layers) == (text, (Layer(CONFIG_TYPE, CONFIG), LAYER))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"{}", b"\xff", b'"text"', b"[" * 100_000),
        json.dumps(document(layers={"a": 1})).encode(),
        json.dumps(document(config=None)).encode(),
        *(
            json.dumps(document(layers=[LAYER.as_json() | change])).encode()
            for change in (
                {"digest": "sha256:../../etc"},
                {"digest": 1},
                {"size": -1},
                {"size": "20"},
                {"size": True},
                {"size": 2**63},
                {"mediaType": "x\n"},
                {"mediaType": "x" * 1000},
                {"from": 5},
            )
        ),
        json.dumps(document(layers=[LAYER.as_json()] * (MOST_LAYERS + 1))).encode(),
        b" " * (LARGEST_MANIFEST_BYTES + 1),
    ],
)
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="manifest"):
        parse(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["config", "layers", "mediaType", "digest", "size", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_manifest_or_refused(value: Any) -> None:
    try:
        parse(json.dumps(value).encode())
    except InvalidRequest:
        return
    assert isinstance(value, dict)


def laid_out(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def test_a_removed_manifest_leaves_no_empty_directories(tmp_path: Path) -> None:
    manifest = build(CONFIG, (LAYER,))
    first, second = names.parse("host/ns/a:1"), names.parse("host/other/b")
    for name in (first, second):
        await manifests.write(tmp_path, name, manifest)
    await manifests.remove(tmp_path, first)
    await manifests.remove(tmp_path, first)
    assert laid_out(tmp_path) == [
        *("manifests", "manifests/host", "manifests/host/other", "manifests/host/other/b"),
        "manifests/host/other/b/latest",
    ]
