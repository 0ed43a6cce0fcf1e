"""Model names as Ollama writes them: ``[scheme://][host/][namespace/]model[:tag]``. Pure."""

import re
from dataclasses import dataclass

from libs.common.errors import InvalidModelName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# No part starts with a dot or holds a slash, so a name can be used as a path.
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
MODEL = TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class ModelName:
    host: str
    namespace: str
    model: str
    tag: str

    @property
    def display(self) -> str:
        """Without the default host and namespace, always with the tag."""
        return f"{self._path}:{self.tag}"

    @property
    def short(self) -> str:
        """The display form, without a default tag: what people type."""
        return self._path if self.tag.lower() == DEFAULT_TAG else self.display

    @property
    def _path(self) -> str:
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}"
        return self.model


def parse(text: str) -> ModelName:
    """With defaults filled in. Raises ``InvalidModelName``."""
    path, tag = _split_tag(text.strip().rpartition("://")[2])
    host, namespace, model = _split_path(path)
    parts = ((HOST, host), (NAMESPACE, namespace), (MODEL, model), (TAG, tag))
    if not all(allowed.fullmatch(part) for allowed, part in parts):
        raise InvalidModelName
    return ModelName(host, namespace, model, tag)


def _split_tag(text: str) -> tuple[str, str]:
    """A colon before the last slash belongs to the host's port."""
    directory, slash, last = text.rpartition("/")
    model, colon, tag = last.partition(":")
    return directory + slash + model, tag if colon else DEFAULT_TAG


def _split_path(path: str) -> tuple[str, str, str]:
    match path.rsplit("/", 2):
        case [model]:
            return DEFAULT_HOST, DEFAULT_NAMESPACE, model
        case [namespace, model]:
            return DEFAULT_HOST, namespace, model
        case parts:
            host, namespace, model = parts
            return host, namespace, model
