"""A stored model in the words of the contracts. Pure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from libs.common.contracts.inference import ModelDetails, ModelRef
from libs.common.contracts.registry import ModelDescription, ModelSummary
from services.registry.store.models import Content, StoredModel


def reference(model: StoredModel) -> ModelRef:
    """Without a Go template the engine finds the weights' own in the GGUF."""
    content = model.content
    contents = content.contents
    return ModelRef(
        name=model.name.display,
        digest=model.digest,
        engine="llama_cpp",
        weights=model.weights,
        projector=contents.projector,
        adapters=contents.adapters,
        size=model.size,
        kv_bytes_per_token=content.facts.kv_bytes_per_token,
        capabilities=_capabilities(content),
        context_length=content.facts.details.context_length,
        parameters=contents.parameters,
        system=contents.system,
        template=contents.template,
        messages=contents.messages,
        details=_details(content),
        organization_id=model.organization_id,
        shared=model.shared,
    )


def summary(model: StoredModel) -> ModelSummary:
    content = model.content
    return ModelSummary(
        name=model.name.display,
        digest=model.digest,
        size=model.size,
        modified_at=model.modified_at.timestamp(),
        details=_details(content),
        capabilities=_capabilities(content),
    )


def description(
    model: StoredModel,
    path: Callable[[str], Path],
    license_text: str,
    model_info: dict[str, Any],
    tensors: tuple[dict[str, Any], ...],
) -> ModelDescription:
    """With a template shown in any case: the Go template, or else the weights' own."""
    content = model.content
    contents = content.contents
    return ModelDescription(
        name=model.name.display,
        modified_at=model.modified_at.timestamp(),
        details=_details(content),
        model_info=model_info,
        capabilities=_capabilities(content),
        template=content.facts.template if contents.template is None else contents.template,
        system=contents.system,
        parameters=contents.parameters,
        license=license_text,
        messages=contents.messages,
        weights=str(path(model.weights)),
        projector=str(path(contents.projector)) if contents.projector else None,
        adapters=tuple(str(path(adapter)) for adapter in contents.adapters),
        projector_info=contents.projector_info,
        tensors=tensors,
        requires=contents.requires,
    )


def _capabilities(content: Content) -> tuple[str, ...]:
    """A row from before there were contents has what its weights say."""
    return content.contents.capabilities or content.facts.capabilities


def _details(content: Content) -> ModelDetails:
    details, contents = content.facts.details, content.contents
    seen_with = contents.projector_info.get("general.architecture")
    families = details.families if seen_with is None else (*details.families, str(seen_with))
    return details.model_copy(update={"parent_model": contents.parent_model, "families": families})
