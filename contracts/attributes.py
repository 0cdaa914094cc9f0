"""Messages that travel as the attributes of a Pub/Sub message."""

from __future__ import annotations

from pydantic import ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from contracts.base import Contract


class AttributesContract(Contract):
    """A message of attributes: on the wire each is text, and one that is unset is not there."""

    model_config = ConfigDict(populate_by_name=True)

    def attributes(self) -> dict[str, str]:
        """Return the message as it travels."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {name: str(value) for name, value in values.items()}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of what travels, not of the values that are read from it."""
        schema = handler(core_schema)
        message = handler.resolve_ref_schema(schema)
        message["properties"] = {name: _in_text(values) for name, values in message["properties"].items()}
        message["additionalProperties"] = {"type": "string"}  # others' attributes travel beside ours
        return schema


def _in_text(values: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a value's text; a number has up to 18 digits, which any 64-bit reader can read."""
    values = {**values}
    if values.get("default", "") is None:
        del values["default"]
    for choice in values.pop("anyOf", ()):
        if choice != {"type": "null"}:
            values |= choice
    if values["type"] == "integer":
        first = "1-9" if values.get("exclusiveMinimum") == 0 else "0-9"
        values = {"title": values["title"], "type": "string", "pattern": f"^[{first}][0-9]{{0,17}}$"}
    return values
