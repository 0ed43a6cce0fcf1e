"""A stored model in the words of the contracts. Pure."""

from typing import Any

from libs.common.contracts.inference import ModelDetails, ModelRef
from libs.common.contracts.registry import ModelDescription, ModelSummary
from services.registry.store.models import StoredModel


def reference(model: StoredModel) -> ModelRef:
    """Without a Go template the engine finds the weights' own in the GGUF."""
    contents = model.contents
    return ModelRef(
        name=model.name.display,
        digest=model.digest,
        engine="llama_cpp",
        weights=model.weights,
        projector=contents.projector,
        adapters=contents.adapters,
        size=model.size,
        capabilities=_capabilities(model),
        context_length=model.facts.details.context_length,
        parameters=contents.parameters,
        system=contents.system,
        template=contents.template,
        messages=contents.messages,
        details=_details(model),
    )


def summary(model: StoredModel) -> ModelSummary:
    return ModelSummary(
        name=model.name.display,
        digest=model.digest,
        size=model.size,
        modified_at=model.modified_at.timestamp(),
        details=_details(model),
        capabilities=_capabilities(model),
    )


def description(
    model: StoredModel, license_text: str, model_info: dict[str, Any], tensors: tuple[dict[str, Any], ...]
) -> ModelDescription:
    """With a template shown in any case: the Go template, or else the weights' own."""
    contents = model.contents
    return ModelDescription(
        name=model.name.display,
        modified_at=model.modified_at.timestamp(),
        details=_details(model),
        model_info=model_info,
        capabilities=_capabilities(model),
        template=model.facts.template if contents.template is None else contents.template,
        system=contents.system,
        parameters=contents.parameters,
        license=license_text,
        messages=contents.messages,
        weights=model.weights,
        projector=contents.projector,
        adapters=contents.adapters,
        projector_info=contents.projector_info,
        tensors=tensors,
        requires=contents.requires,
    )


def _capabilities(model: StoredModel) -> tuple[str, ...]:
    """A row from before there were contents has what its weights say."""
    return model.contents.capabilities or model.facts.capabilities


def _details(model: StoredModel) -> ModelDetails:
    details, contents = model.facts.details, model.contents
    seen_with = contents.projector_info.get("general.architecture")
    families = details.families if seen_with is None else (*details.families, str(seen_with))
    return details.model_copy(update={"parent_model": contents.parent_model, "families": families})
