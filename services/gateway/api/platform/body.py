"""What callers send: read as the JSON it is, so that no ``true`` counts as 1 and no misspelt field as an absent one."""

import json
from typing import Any, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema


class Body(BaseModel):
    """Base of all bodies of the platform, and of the objects inside them; made from JSON, not by its constructor.

    Named last among several bases: the last one's ``extra`` counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """FastAPI validates what Python made of the JSON, whose lists a strict model would not take for tuples."""
        schema = handler(source)
        return core_schema.json_or_python_schema(
            json_schema=schema, python_schema=core_schema.no_info_before_validator_function(cls._read, schema)
        )

    @classmethod
    def _read(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
