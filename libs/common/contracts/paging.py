"""Lists that come in pages."""

from typing import Generic, TypeVar

from pydantic import Field

from libs.common.contracts.message import Value

Item = TypeVar("Item")

MOST_ITEMS = 200


class PageRequest(Value):
    limit: int = Field(50, ge=1, le=MOST_ITEMS, description="items a page has at most")
    cursor: str = Field("", max_length=500, pattern=r"^[A-Za-z0-9_=-]*$", description="next_cursor of the page before")


class Page(Value, Generic[Item]):
    items: tuple[Item, ...]
    next_cursor: str | None = Field(None, description="of the page after this one; null: this is the last")
