"""What a model can do against what a request wants of it, in Ollama's words."""

from libs.common.contracts.inference import ModelRef
from libs.common.errors import UnsupportedByModel
from services.gateway.models import display_name


def check_model(
    model: ModelRef,
    asked_as: str,
    verb: str,
    *,
    thinking: bool = False,
    tools: bool = False,
    images: bool = False,
    suffix: bool = False,
) -> None:
    """Raises ``UnsupportedByModel``. ``asked_as``: the name as the client sent it."""
    can = model.capabilities
    if "image" in can:
        raise UnsupportedByModel("image generation models are not currently supported")
    if "completion" not in can:
        raise UnsupportedByModel(f'"{asked_as}" does not support {verb}')
    if tools and "tools" not in can:
        raise UnsupportedByModel(f"{_qualified(model.name)} does not support tools")
    if suffix and "insert" not in can:
        raise UnsupportedByModel(f"{_qualified(model.name)} does not support insert")
    if thinking and "thinking" not in can:
        raise UnsupportedByModel(f'"{asked_as}" does not support thinking')
    if images and "vision" not in can:
        raise UnsupportedByModel("this model is missing data required for image input")


def _qualified(name: str) -> str:
    """With host and namespace."""
    shown = display_name(name)
    missing = {0: "registry.ollama.ai/library/", 1: "registry.ollama.ai/"}
    return missing.get(shown.count("/"), "") + shown
