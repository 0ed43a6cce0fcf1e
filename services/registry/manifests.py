"""Manifests in Ollama's format and place: ``<data>/manifests/<host>/<namespace>/<model>/<tag>``.

Postgres decides which models exist. The files are what other tools read, and say the same: one is written before its
row, so a row always has its file, and an import that was killed in between is completed by the next.
"""

import asyncio
import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from services.registry.blobs import Blob, sync
from services.registry.names import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL_TYPE = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class Layer:
    media_type: str
    blob: Blob

    def as_json(self) -> dict[str, str | int]:
        return {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size}


@dataclass(frozen=True)
class Manifest:
    """``text`` is the file, byte for byte; ``digest`` its sha256 in hex; ``size`` the bytes of config and layers."""

    text: str
    digest: str
    size: int
    layers: tuple[Layer, ...]
    """With the config."""


def build(config: Blob, layers: tuple[Layer, ...]) -> Manifest:
    """The same blobs give the same bytes, so importing again changes nothing."""
    config_layer = Layer(CONFIG_TYPE, config)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_layer.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    text = json.dumps(document, separators=(",", ":"))
    everything = (config_layer, *layers)
    return Manifest(
        text, hashlib.sha256(text.encode()).hexdigest(), sum(layer.blob.size for layer in everything), everything
    )


async def write(data_dir: Path, name: ModelName, manifest: Manifest) -> None:
    """Replaces the file at once or not at all. Raises ``OSError``."""
    path = data_dir / "manifests" / name.host / name.namespace / name.model / name.tag
    await asyncio.to_thread(_write, path, manifest.text.encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}-partial")
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)
