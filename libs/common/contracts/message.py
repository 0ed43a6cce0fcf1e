"""The three verbs: a query has one answer, a command one owner, an event any number of listeners."""

from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

Reply = TypeVar("Reply")


class Value(BaseModel):
    """An immutable part of a message. Unknown fields are ignored, so that old readers accept new writers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(Value):
    """Something that travels on the bus. Its wire name is ``<owner>.<Class>``, after its file (or folder) and class."""

    owner: ClassVar[str]
    wire_name: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.owner = _owner(cls.__module__)
        cls.wire_name = f"{cls.owner}.{cls.__name__}"
        MESSAGES[cls.wire_name] = cls


MESSAGES: dict[str, type[Message]] = {}
"""Every message whose module has been imported, by wire name."""


def _owner(module: str) -> str:
    """``...contracts.auth`` and ``...contracts.auth.keys`` are both auth's."""
    return module.partition(".contracts.")[2].partition(".")[0] or module.rpartition(".")[2]


class Query(Message, Generic[Reply]):
    """Asked of one replica of the owner; answered with ``Reply`` or with an error."""

    @classmethod
    def reply_adapter(cls) -> TypeAdapter[Any]:
        """The parser of this query's answer, found in the ``Query[...]`` it derives from."""
        for base in cls.__mro__:
            metadata = base.__dict__.get("__pydantic_generic_metadata__")
            if metadata and metadata["origin"] is Query:
                return TypeAdapter(metadata["args"][0])
        raise TypeError(f"{cls.__name__} does not say what it is answered with: derive from Query[...]")


class Command(Message):
    """Done once by its owner; waits in a durable queue until it is done."""

    to_instance: ClassVar[bool] = False
    """Addressed to one process of the owner, by its instance id, through a queue of that process's own."""

    returns_to: ClassVar["type[Command] | None"] = None
    """For ``to_instance``: the command whose queue gets this one back if it was not done in time or its lease died."""

    lease_ttl_seconds: ClassVar[float] = 0
    """For ``to_instance``: how long it may wait in the instance's queue to be taken."""


class Event(Message):
    """Something that happened. Listeners choose one-per-service or every-replica."""
