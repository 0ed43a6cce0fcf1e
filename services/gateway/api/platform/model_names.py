"""``{model}`` in the paths of the platform: a name, with or without its tag."""

import re
from typing import Annotated, Final

from fastapi import Path

from libs.common.contracts.auth.identity import Identity
from libs.common.errors import ModelNotFound
from services.gateway.api.platform.text import NO_NUL
from services.gateway.models import LONGEST_NAME, REMOTE_DETAILS, seen_name

ModelName = Annotated[str, Path(max_length=LONGEST_NAME, pattern=NO_NUL, examples=["llama3:8b"])]

_DIGEST: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def checked(caller: Identity, model: str) -> str:
    """What the registry is asked for. Raises ``ModelNotFound`` for what the caller may not know of."""
    return seen_name(caller, model, REMOTE_DETAILS)


def checked_name_or_digest(caller: Identity, model: str) -> str:
    """As ``checked``. Who may see some names only is not answered by digest, which says nothing of the name."""
    if _DIGEST.fullmatch(model):
        if caller.models:
            raise ModelNotFound(f"model '{model}' not found")
        return model
    return checked(caller, model)
