"""What is made of schemas that are no schemas, or much too long."""

from typing import Any

import pytest

from inference.text.parameter_types import MOST_STEPS, MOST_WORK, Work, alternatives, types, with_plain_types


@pytest.mark.parametrize("schema", [{"allOf": 3}, {"allOf": []}, {"type": {"a": 1}}, {"type": [{"a": 1}]}, {"type": 3}])
def test_a_schema_that_is_none_has_no_types_and_is_no_error(schema: Any) -> None:
    assert types(schema, {}, Work()) == []


@pytest.mark.parametrize("schema", [{"type": ["string"] * 8}, {"anyOf": [{"type": "string"}] * MOST_STEPS}])
def test_more_alternatives_than_are_followed_are_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"more types than there are|lead too far"):
        alternatives(schema, {}, Work())


LONG = MOST_WORK // 10


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": list(range(LONG))},
        {"allOf": [{"type": "string"} | {str(number): 0 for number in range(LONG)}]},
        {"anyOf": [{"type": "string"}, *[{}] * LONG]},
    ],
)
def test_of_many_parameters_that_refer_to_one_long_schema_only_the_first_have_types(schema: Any) -> None:
    def types_of_last(references: int) -> Any:
        properties: dict[str, Any] = {f"p{number}": {"$ref": "#/$defs/long"} for number in range(references)}
        parameters = {"$defs": {"long": schema}, "properties": properties | {"last": {"type": "string"}}}
        (tool,) = with_plain_types([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
        return tool["function"]["parameters"]["properties"]["last"]["type"]

    assert types_of_last(3) == ["string"]
    assert types_of_last(500) == []
