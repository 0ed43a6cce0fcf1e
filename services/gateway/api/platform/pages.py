"""``?limit=&cursor=`` of every list."""

from typing import Annotated

from fastapi import Query

from libs.common.contracts.paging import PageRequest

Paging = Annotated[PageRequest, Query()]
