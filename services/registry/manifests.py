"""Manifests in Ollama's format and place: ``<home>/manifests/<host>/<namespace>/<model>/<tag>``.

The operating organization's home is the data directory itself; others have theirs in ``<data>/organizations``.

Postgres decides which models exist. The files are what other tools read, and say the same: one is written before its
row, so a row always has its file, and an import that was killed in between is completed by the next.
"""

import asyncio
import hashlib
import json
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.errors import InvalidModelName, InvalidRequest
from services.registry import blobs, names
from services.registry.blobs import Blob, full_disks_explained, sync
from services.registry.names import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"

LARGEST_MANIFEST_BYTES = 1 << 20
MOST_LAYERS = 1000
LONGEST_TEXT = 700
"""Of a media type or a name; no name of a model is longer."""

_ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9-]*")
_DIGEST = re.compile(rb"sha256[:-][0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Layer:
    media_type: str
    blob: Blob
    source: str = ""
    """Ollama's ``from``: the model that the layer was taken from."""

    def as_json(self) -> dict[str, str | int]:
        taken = {"from": self.source} if self.source else {}
        return {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size, **taken}


@dataclass(frozen=True)
class Manifest:
    """``text`` is the file, byte for byte; ``digest`` its sha256 in hex; ``size`` the bytes of config and layers."""

    text: str
    digest: str
    size: int
    layers: tuple[Layer, ...]
    """The config, then the layers."""

    @property
    def config(self) -> Layer:
        return self.layers[0]

    def of_type(self, media_type: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.media_type == media_type)


def build(config: Blob, layers: tuple[Layer, ...]) -> Manifest:
    """The same blobs give the same bytes, so importing again changes nothing."""
    config_layer = Layer(CONFIG_TYPE, config)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_layer.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    return _manifest(json.dumps(document, separators=(",", ":")), (config_layer, *layers))


def parse(content: bytes) -> Manifest:
    """Raises ``InvalidRequest`` unless this is a manifest of a size that anybody needs."""
    if len(content) > LARGEST_MANIFEST_BYTES:
        raise InvalidRequest("the manifest is too large")
    try:
        text = content.decode()
        document = json.loads(text)
        layers = document["layers"]
        if len(layers) > MOST_LAYERS:
            raise InvalidRequest("the manifest has too many layers")
        return _manifest(text, tuple(_layer(layer) for layer in (document["config"], *layers)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidRequest("invalid manifest") from None


def media_type(text: str) -> str:
    """What this manifest says that it is, if that is something a manifest can be."""
    said = json.loads(text).get("mediaType")
    return OCI_MANIFEST_TYPE if said == OCI_MANIFEST_TYPE else MANIFEST_TYPE


def _layer(document: dict[str, Any]) -> Layer:
    """Raises ``ValueError`` and what a wrong type leads to."""
    media_type, size, source = document["mediaType"], document["size"], document.get("from") or ""
    digest = blobs.normalised(document["digest"])
    if digest is None or type(size) is not int or not 0 <= size < 1 << 62:
        raise ValueError
    for text in (media_type, source):
        if not isinstance(text, str) or len(text) > LONGEST_TEXT or not text.isprintable():
            raise ValueError
    return Layer(media_type, Blob(digest, size), source)


def _manifest(text: str, layers: tuple[Layer, ...]) -> Manifest:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Manifest(text, digest, sum(layer.blob.size for layer in layers), layers)


def home(data_dir: Path, organization: str) -> Path:
    """Of the organization's manifests and uploads. Its id must be one: nothing else becomes a path."""
    assert _ORGANIZATION.fullmatch(organization), organization
    return data_dir if organization == OPERATING_ORGANIZATION else data_dir / "organizations" / organization


def homes(data_dir: Path) -> list[Path]:
    """Of all organizations that have one."""
    return [data_dir, *(data_dir / "organizations").glob("*")]


async def remove_home(data_dir: Path, organization: str) -> None:
    """With everything in it, which must not be the operating organization's. Raises ``OSError``."""
    assert organization != OPERATING_ORGANIZATION
    await asyncio.to_thread(shutil.rmtree, home(data_dir, organization), ignore_errors=True)


def path(home: Path, name: ModelName) -> Path:
    """Of the manifest's file; a name's parts are safe in a path."""
    return home / "manifests" / name.host / name.namespace / name.model / name.tag


async def write(home: Path, name: ModelName, manifest: Manifest) -> None:
    """Replaces the file at once or not at all. Raises ``StorageFull`` and ``OSError``."""
    await asyncio.to_thread(_write, path(home, name), manifest.text.encode())


async def remove(home: Path, name: ModelName) -> None:
    """And the directories that it leaves empty. Nothing happens if there is none. Raises ``OSError``."""
    await asyncio.to_thread(_remove, path(home, name))


async def names_in_files(data_dir: Path) -> list[ModelName]:
    """Of every manifest in the directory, whoever wrote it; other files are left aside. Raises ``OSError``."""
    return await asyncio.to_thread(_names_in_files, data_dir / "manifests")


async def read(data_dir: Path, name: ModelName) -> bytes:
    """As much of the file as a manifest may have; nothing if it is gone by now. Raises ``OSError``."""
    return await asyncio.to_thread(_read, path(data_dir, name))


async def digests_in_files(data_dir: Path) -> set[str]:
    """Every digest that a manifest in Ollama's own place names, whoever wrote it. Raises ``OSError``."""
    return await asyncio.to_thread(_digests_in_files, data_dir / "manifests")


def _names_in_files(directory: Path) -> list[ModelName]:
    found = []
    for file in sorted(directory.glob("*/*/*/*")):
        host, namespace, model, tag = file.relative_to(directory).parts
        with suppress(InvalidModelName):
            found.append(names.parse(f"{host}/{namespace}/{model}:{tag}"))
    return found


def _digests_in_files(directory: Path) -> set[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {_normalised(match) for path in files for match in _DIGEST.findall(_read(path))}


def _read(path: Path) -> bytes:
    """Nothing if it is gone by now."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_MANIFEST_BYTES)
    except FileNotFoundError:
        return b""


def _normalised(digest: bytes) -> str:
    return digest.decode().lower().replace("-", ":")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{secrets.token_hex(8)}-partial")
    try:
        with full_disks_explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            sync(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    # Up to the host's; the first that is not empty ends it.
    with suppress(OSError):
        for directory in tuple(path.parents)[:3]:
            directory.rmdir()
