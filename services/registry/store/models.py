"""The SQL of models: a row is what a name points to."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.registry import manifests
from services.registry.gguf_info import GgufInfo
from services.registry.layers import Contents
from services.registry.manifests import Manifest
from services.registry.names import ModelName


@dataclass(frozen=True)
class Content:
    """A manifest, understood: everything that is saved about a model but its name."""

    manifest: Manifest
    weights: str
    """The digest of their blob."""

    facts: GgufInfo
    contents: Contents


@dataclass(frozen=True)
class StoredModel:
    id: int
    host: str
    namespace: str
    model: str
    tag: str
    digest: str
    size: int
    manifest_text: str
    weights: str
    facts_json: str
    contents_json: str
    modified_at: datetime

    @property
    def name(self) -> ModelName:
        return ModelName(self.host, self.namespace, self.model, self.tag)

    @property
    def content(self) -> Content:
        return content_of(self.manifest_text, self.weights, self.facts_json, self.contents_json)


def content_of(manifest: str, weights: str, facts: str, contents: str) -> Content:
    """From what the columns hold."""
    return Content(
        manifests.parse(manifest.encode()),
        weights,
        GgufInfo.model_validate_json(facts),
        Contents.model_validate_json(contents),
    )


async def find_model(tx: Transaction, name: ModelName) -> StoredModel | None:
    """Whatever the spelling of ``name``."""
    async with tx.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            """
            select id, host, namespace, model, tag, digest, size, manifest as manifest_text, weights,
                   facts::text as facts_json, contents::text as contents_json, modified_at
            from models where (lower(host), lower(namespace), lower(model), lower(tag))
                            = (lower(%s), lower(%s), lower(%s), lower(%s))
            """,
            [name.host, name.namespace, name.model, name.tag],
        )
        return await cursor.fetchone()


async def list_models(tx: Transaction) -> list[StoredModel]:
    """Newest first."""
    async with tx.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            """
            select id, host, namespace, model, tag, digest, size, manifest as manifest_text, weights,
                   facts::text as facts_json, contents::text as contents_json, modified_at
            from models order by modified_at desc, id
            """
        )
        return await cursor.fetchall()


async def find_facts(tx: Transaction, weights: str) -> GgufInfo | None:
    """What is known of this blob already, so that nobody has to read gigabytes again."""
    rows = await tx.execute("select facts::text from models where weights = %s limit 1", [weights])
    row = await rows.fetchone()
    return GgufInfo.model_validate_json(row[0]) if row else None


async def lock_name(tx: Transaction, name: ModelName) -> None:
    """Until the transaction ends nobody else saves this name, on any replica; its file and its row stay one."""
    await tx.execute("select pg_advisory_xact_lock(hashtext(lower(%s)))", [name.display])


async def spelling(tx: Transaction, name: ModelName) -> ModelName:
    """With the spelling that its parts have already, part by part from the left."""
    rows = await tx.execute(
        """
        select host, namespace, model, tag from models where lower(host) = lower(%(host)s)
        order by lower(namespace) = lower(%(namespace)s) desc, lower(model) = lower(%(model)s) desc,
                 lower(tag) = lower(%(tag)s) desc, id
        limit 1
        """,
        {"host": name.host, "namespace": name.namespace, "model": name.model, "tag": name.tag},
    )
    existing = await rows.fetchone()
    if existing is None:
        return name
    parts = [name.host, name.namespace, name.model, name.tag]
    for index, spelled in enumerate(existing):
        if spelled.lower() != parts[index].lower():
            break
        parts[index] = spelled
    return ModelName(*parts)


async def save_model(tx: Transaction, name: ModelName, content: Content) -> bool:
    """False if the name pointed to this manifest already: then nothing changes, not even the time."""
    manifest = content.manifest
    rows = await tx.execute(
        """
        insert into models (host, namespace, model, tag, digest, manifest, size, weights, facts, contents)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (lower(host), lower(namespace), lower(model), lower(tag)) do update set
            digest = excluded.digest, manifest = excluded.manifest, size = excluded.size, weights = excluded.weights,
            facts = excluded.facts, contents = excluded.contents, modified_at = now()
        where models.digest <> excluded.digest
        returning id
        """,
        [
            *(name.host, name.namespace, name.model, name.tag, manifest.digest, manifest.text, manifest.size),
            *(content.weights, content.facts.model_dump_json(), content.contents.model_dump_json()),
        ],
    )
    saved = await rows.fetchone()
    if saved is None:
        return False
    await _save_layers(tx, int(saved[0]), manifest)
    return True


async def delete_model(tx: Transaction, model_id: int) -> None:
    """And its versions."""
    await tx.execute("delete from models where id = %s", [model_id])


async def _save_layers(tx: Transaction, model_id: int, manifest: Manifest) -> None:
    """So that a blob that no model needs can be told from one that is needed."""
    await tx.execute("delete from model_layers where model_id = %s", [model_id])
    layers = {(layer.blob.digest, layer.media_type): layer.blob.size for layer in manifest.layers}
    async with tx.cursor() as cursor:
        await cursor.executemany(
            "insert into blobs (digest, size) values (%s, %s) on conflict do nothing",
            [(digest, size) for (digest, _), size in layers.items()],
        )
        await cursor.executemany(
            "insert into model_layers (model_id, digest, media_type) values (%s, %s, %s)",
            [(model_id, digest, media_type) for digest, media_type in layers],
        )
