"""Write docs/operators.md: the ONNX operators that can be imported, with versions and types.

    python scripts/list_operators.py

The list is read from the table of converters and from ONNX's own schemas; a test compares the page
with what this makes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, defs

from hios_tvm.frontends.onnx.inputs import ELEMENT_TYPES
from hios_tvm.frontends.onnx.operators.table import CONVERTERS

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"

_ONNX_NAMES = {"float": "float32", "double": "float64"}
_COMPUTED = {
    _ONNX_NAMES.get(name, name)
    for name in (TensorProto.DataType.Name(element).lower() for element in ELEMENT_TYPES)
}
_CLASSES = {
    "floats": {"float16", "bfloat16", "float32", "float64"},
    "signed": {"int8", "int16", "int32", "int64"},
    "unsigned": {"uint8", "uint16", "uint32", "uint64"},
}


def page() -> str:
    """Return the page as Markdown."""
    schemas = _schemas()
    rows = "\n".join(_rows(schemas))
    by_definition = sorted(
        name
        for (domain, name), versions in schemas.items()
        if domain == ""
        and (domain, name) not in CONVERTERS
        and any(schema.has_function or schema.has_context_dependent_function for schema in versions)
    )
    count = sum(domain == "" for domain, _ in CONVERTERS)
    return f"""# ONNX operators

Made by `scripts/list_operators.py` from the table of converters and the schemas of ONNX
{onnx.__version__}.
{count} operators of ONNX are converted, in the versions below (the opsets in which ONNX has changed
them), and {len(CONVERTERS) - count} of ONNX Runtime's own domain. *Types* are those of the first
output that both ONNX and the compiler know: *floats* are float16, bfloat16, float32 and float64,
*signed* and *unsigned* are integers of 8 to 64 bits. Where an operator takes fewer types, or an
attribute has a value that cannot be compiled, the import says so by name.

| operator | versions | types |
|---|---|---|
{rows}

These are imported by the definition that ONNX gives of them, where the operators in it can be:
{", ".join(f"`{name}`" for name in by_definition)}.
"""


def _schemas() -> dict[tuple[str, str], list[defs.OpSchema]]:
    found: dict[tuple[str, str], list[defs.OpSchema]] = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        found[schema.domain, schema.name].append(schema)
    return {key: sorted(each, key=lambda s: int(s.since_version)) for key, each in found.items()}


def _rows(schemas: Mapping[tuple[str, str], list[defs.OpSchema]]) -> Iterator[str]:
    for domain, name in sorted(CONVERTERS):
        versions = schemas.get((domain, name), [])
        numbers = ", ".join(str(schema.since_version) for schema in versions) or "1"
        types = _types(versions[-1]) if versions else "-"
        yield f"| {f'{domain}.' if domain else ''}{name} | {numbers} | {types} |"


def _types(schema: defs.OpSchema) -> str:
    """Return the types of the first output, of those that the compiler knows."""
    if not schema.outputs:
        return "-"
    names = {
        _ONNX_NAMES.get(text, text)
        for text in (t.removeprefix("tensor(").removesuffix(")") for t in schema.outputs[0].types)
    }
    left, words = names & _COMPUTED, []
    for word, members in _CLASSES.items():
        if members <= left:
            words.append(word)
            left -= members
    return ", ".join([*words, *sorted(left)]) or "-"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
