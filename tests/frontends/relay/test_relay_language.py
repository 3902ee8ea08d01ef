"""The language: bindings, functions, tuples, data types, constants, versions and names."""

from __future__ import annotations

import base64
import json
import struct
import sys
from typing import Any

import numpy as np
import pytest
import tvm
from relay_programs import (
    HEADER,
    assert_close,
    compute,
    numbers,
    relay_text,
    run_module,
)

from hios_tvm.errors import DynamicShapeError, RelayError, UnsupportedOperatorError
from hios_tvm.frontends.relay import from_relay, from_relay_json
from hios_tvm.frontends.relay.parser import parse_program

X = numbers(2, 3)


def operators_of(mod: tvm.IRModule) -> list[str]:
    bindings = mod["main"].body.blocks[0].bindings
    return [binding.value.op.name for binding in bindings if hasattr(binding.value, "op")]


def test_module_has_one_dataflow_block_and_the_original_names() -> None:
    body = "%0 = nn.relu(%in.put);\n(%0, (%w, tanh(%0)))"
    mod = from_relay(relay_text(body, {"in.put": X, "w": X}), {"w": X})
    assert list(mod["main"].attrs["input_names"]) == ["in.put"]
    assert list(mod["main"].attrs["output_names"]) == ["output_0", "output_1", "output_2"]
    assert len(mod["main"].body.blocks) == 1
    assert len(mod["main"].params) == 1
    results = run_module(mod, {"in.put": X})
    for result, expected in zip(results, [X.clip(0), X, np.tanh(X.clip(0))], strict=True):
        assert_close(result, expected)


PROGRAMS = {
    "shadowed let": ("let %y = nn.relu(%x);\nlet %y = negative(%y);\n%y", -X.clip(0)),
    "closures see the value from before": (
        "let %y = %x;\nlet %f = fn () { %y };\nlet %y = negative(%x);\nadd(%y, %f())",
        np.zeros_like(X),
    ),
    "let in parentheses": ("add(%x, (\n let %y = exp(%x);\n%y\n))", X + np.exp(X)),
    "function applied at once": ("fn (%a) { add(%a, %a) }(%x)", 2 * X),
    "function that returns a function": (
        "fn (%a) { fn (%b) { %a - %b } }(%x)(exp(%x))",
        X - np.exp(X),
    ),
    "function of a tuple": (
        "%0 = fn (%t: (Tensor[(2, 3), float32], float32)) -> Tensor[(2, 3), float32]"
        " { multiply(%t.0, %t.1) };\n%0((%x, 3f))",
        3 * X,
    ),
    "operator as a value": ("%0 = fn (%f) { %f(%x) };\n%0(tanh)", np.tanh(X)),
    "nested projections": ("%0 = (%x, (exp(%x), %x));\n%0.1.0", np.exp(X)),
    "condition on a constant": ("if (less(2, 3)) { nn.relu(%x) } else { exp(%x) }", X.clip(0)),
    "recursion that ends": (
        "let %f = fn (%i: int32, %a) { if (%i > 0) { %f(%i - 1, %a + 1f) } else { %a } };"
        "\n%f(3, %x)",
        X + 3,
    ),
    "attributes of a function": (
        '%0 = fn (%a: Tensor[(2, 3), float32], Primitive=1, hash="x", Composite="y")'
        " { exp(%a) };\n%0(%x)",
        np.exp(X),
    ),
    "generic function": ("%0 = fn [A](%a: A) -> A { %a };\n%0(%x)", X),
    "devices": ("on_device(%x, virtual_device=VirtualDevice0, constrain_result=True)", X),
    "numbers": ("%x * 1e1f + -5e-1f - --1f", X * 10 - 0.5 - 1),
    "infinity": ("minimum(maximum(%x, -inff), inff)", X),
    "wide numbers": ('cast(%x, dtype="float64") + 1f64', X.astype("float64") + 1),
    "half numbers": ('cast(%x, dtype="float16") + 1f16', X.astype("float16") + np.float16(1)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    body, expected = PROGRAMS[name]
    (result,) = compute(body, {"x": X})
    assert_close(result, expected, 1e-3 if expected.dtype == np.float16 else 1e-5)


def test_functions_that_call_each_other_and_data_types() -> None:
    text = (
        HEADER
        + """
    type List[A] {
      Cons(A, List[A]),
      Nil,
    }
    extern type Storage

    def @sum[A](%list: List[A], %start: A) -> A {
      match (%list) {
        Cons(%head, %tail) => { add(@sum(%tail, %start), %head) },
        Nil => { %start },
      }
    }

    def @swap(%pair) {
      match? (%pair) {
        (%a, _) => %a,
      }
    }

    def @main(%x: Tensor[(2, 3), float32]) {
      let %list = Cons(%x, Cons(exp(%x), Nil));
      @sum(@swap((%list, 1)), %x)
    }
    """
    )
    (result,) = run_module(from_relay(text), {"x": X})
    assert_close(result, 2 * X + np.exp(X))


def test_comments_of_types_and_spans() -> None:
    text = (
        '#[version = "0.0.5"] // a comment with "quotes" and /* no end\n'
        'def @main(%a/b: Tensor[(2, 3), float32] /* ty=Tensor[(2, 3), float32] span="a:1 */) {\n'
        "  nn.relu(%a/b) /* ty=fn (Tensor[(2, 3), float32]) -> () /* nested */ span=x.py:1:2 */\n"
        "}\n/* For debugging purposes the metadata section has been omitted. */"
    )
    (result,) = run_module(from_relay(text), {"a/b": X})
    assert_close(result, X.clip(0))


NAMES = ["features.0.weight", "model/conv/Read", "input:0", "onnx::Conv_12", "aten::conv_0.bias"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_frameworks(name: str) -> None:
    """The printer writes them as they are, and a projection looks the same as a name's end."""
    body = f"%0 = (%{name}, exp(%{name}));\nlet %call = %0;\nadd(%call.1, %{name})"
    (result,) = compute(body, {name: X})
    assert_close(result, np.exp(X) + X)


@pytest.mark.parametrize("header", ["", "v0.0.4\n", HEADER])
def test_texts_of_functions_and_expressions(header: str) -> None:
    function = f"{header}fn (%x: Tensor[(2, 3), float32]) -> Tensor[(2, 3), float32] {{ exp(%x) }}"
    expression = f"{header}free_var %x: Tensor[(2, 3), float32];\n%0 = exp(%x);\n%0"
    for text in (function, expression):
        assert_close(run_module(from_relay(text), {"x": X})[0], np.exp(X))


def tensor_bytes(array: np.ndarray) -> str:
    """A tensor as TVM writes it into JSON."""
    code = {"i": 0, "u": 1, "f": 2}[array.dtype.kind]
    head = struct.pack(
        "<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, array.ndim, code, array.itemsize * 8, 1
    )
    sizes = struct.pack(f"<{array.ndim + 1}q", *array.shape, array.nbytes)
    return base64.b64encode(head + sizes + array.tobytes()).decode()


def metadata(arrays: list[np.ndarray]) -> str:
    """A metadata section with constants, and the attributes of one convolution."""
    count = len(arrays)
    attributes = {"padding": str(count + 5), "groups": "1", "strides": str(count + 5)}
    nodes = [
        {"type_key": ""},
        {"type_key": "Map", "keys": ["relay.Constant", "relay.attrs.Conv2DAttrs"], "data": [2, 3]},
        {"type_key": "Array", "data": [4 + i for i in range(count)]},
        {"type_key": "Array", "data": [4 + count]},
        *({"type_key": "relay.Constant", "attrs": {"data": str(i)}} for i in range(count)),
        {"type_key": "relay.attrs.Conv2DAttrs", "attrs": attributes},
        {"type_key": "Array", "data": [count + 6, count + 6]},
        {"type_key": "IntImm", "attrs": {"dtype": "int32", "value": "1"}},
    ]
    table = {"root": 1, "nodes": nodes, "b64ndarrays": [tensor_bytes(array) for array in arrays]}
    return "\n#[metadata]\n" + json.dumps(table)


def test_constants_and_attributes_of_the_metadata_section() -> None:
    x, w, b = numbers(1, 2, 4, 4), numbers(3, 2, 1, 1, seed=1), numbers(3, seed=2)
    body = (
        "%0 = nn.conv2d(%x, meta[relay.Constant][0], meta[relay.attrs.Conv2DAttrs][0]);\n"
        "nn.bias_add(%0, meta[relay.Constant][1] /* ty=Tensor[(3), float32] */)"
    )
    text = relay_text(body, {"x": x}) + metadata([w, b])
    (result,) = run_module(from_relay(text), {"x": x})
    expected = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]) + b[:, None, None]
    assert_close(
        result,
        np.pad(expected - b[:, None, None], ((0, 0), (0, 0), (1, 1), (1, 1))) + b[:, None, None],
    )
    with pytest.raises(RelayError, match=r"line 3, column 45: .*show_meta_data=True"):
        from_relay(relay_text(body, {"x": x}))
    with pytest.raises(RelayError, match=r"meta\[relay.Constant\]\[1\] is not in the metadata"):
        from_relay(relay_text(body, {"x": x}) + metadata([w]))


def test_shared_nodes_of_json_are_computed_once() -> None:
    table: dict[str, Any] = {
        "root": 1,
        "nodes": [
            {"type_key": ""},
            {"type_key": "relay.Function", "attrs": {"params": "2", "body": "9"}},
            {"type_key": "Array", "data": [3]},
            {"type_key": "relay.Var", "attrs": {"vid": "4", "type_annotation": "6"}},
            {"type_key": "relay.Id", "attrs": {"name_hint": "5"}},
            {"type_key": "runtime.String", "repr_str": "x"},
            {"type_key": "relay.TensorType", "attrs": {"dtype": "float32", "shape": "7"}},
            {"type_key": "Array", "data": [8, 8]},
            {"type_key": "IntImm", "attrs": {"dtype": "int32", "value": "2"}},
            {"type_key": "relay.Call", "attrs": {"op": "10", "args": "11", "attrs": "0"}},
            {"type_key": "Op", "repr_str": "add"},
            {"type_key": "Array", "data": [12, 12]},
            {"type_key": "relay.Call", "attrs": {"op": "13", "args": "14", "attrs": "0"}},
            {"type_key": "Op", "repr_str": "exp"},
            {"type_key": "Array", "data": [3]},
        ],
        "b64ndarrays": [],
    }
    mod = from_relay_json(json.dumps(table))
    assert operators_of(mod) == ["relax.exp", "relax.add"]
    assert_close(run_module(mod, {"x": X[:, :2]})[0], 2 * np.exp(X[:, :2]))
    table["nodes"][14]["data"] = [9]  # the first call now depends on itself
    with pytest.raises(RelayError, match="part of itself"):
        from_relay_json(json.dumps(table))


# --- Size ---


def test_deep_programs_need_no_stack() -> None:
    """Long chains of bindings, and expressions nested as deeply, without a `RecursionError`."""
    count = 3000
    lets = "".join(f"let %y{i + 1} = negative(%y{i});\n" for i in range(count))
    numbered = "%0 = negative(%y0);\n" + "".join(
        f"%{i + 1} = negative(%{i});\n" for i in range(count - 1)
    )
    nested = "negative(" * count + "%y0" + ")" * count
    for body in (f"{lets}%y{count}", f"{numbered}%{count - 1}", nested):
        mod = from_relay(relay_text(body, {"y0": X}))
        assert operators_of(mod) == ["relax.negative"] * count


def test_parsing_is_linear_work() -> None:
    """Ten times the text needs ten times the calls of functions."""
    line = "  %{0} = add(%{1}, %{1}) /* ty=Tensor[(2, 3), float32] */;\n"

    def calls(count: int) -> int:
        body = "  %0 = exp(%x);\n" + "".join(line.format(i + 1, i) for i in range(count))
        text = relay_text(f"{body}  %{count}", {"x": X})
        seen = 0

        def profile(_frame: object, _event: str, _argument: object) -> None:
            nonlocal seen
            seen += 1

        sys.setprofile(profile)
        try:
            parse_program(text)
        finally:
            sys.setprofile(None)
        return seen

    calls(1)  # builds the parser
    assert calls(2000) < 10.5 * calls(200)


# --- Errors ---

ERRORS = {
    "%y": "line 3, column 1: %y is not defined",
    "nn.relu(%x": "line 4, column 1: this is not Relay: '}'",
    "nn.relu(%x))": r"line 3, column 12: this is not Relay: '\)'",
    "nn.relu(%x, %x) }": "line 4, column 1",
    "%x /* comment": "line 3, column 4: this comment is not closed",
    "%x.0": "column 1: a tensor of float32 with shape .* has no fields",
    "(%x, %x).2": "a tuple of 2 has no field 2",
    "%x(%x)": "a tensor of float32 with shape .* cannot be called",
    "@f(%x)": "there is no function @f",
    "fn (%a, %b) { %a }(%x)": "a function of 2 parameters is called with 1 arguments",
    "fn (%a) { %a }": "the result of the program is a function",
    "()": "the program has no result",
    "concatenate(%x)": "concatenate: argument 1 must be a tuple of tensors",
    "add(%x)": "add: argument 2 is missing",
    "add(%x, (%x, %x))": "argument 2 must be a tensor, not a tuple of 2",
    "add(%x, meta[relay.Constant][0])": "the program has no metadata section",
    "add(%x, zeros(shape=[7], dtype=\"float32\"))": "add: cannot be applied to a tensor",
    "nn.conv2d(%x, %x)": "nn.conv2d: a tensor of 2 dimensions cannot be NCHW",
    "transpose(%x, axes=[0, 0])": r"transpose: \[0, 0\] is no order of 2 axes",
    "reshape(%x, newshape=[4, 4])": "reshape: .* cannot become",
    "reshape(%x)": "reshape: the attribute newshape must be a list of integers, and is missing",
    "sum(%x, axis=[\"a\"])": "sum: the attribute axis must be a list of integers",
    "sum(%x, axis=[5])": "axis 5 is not an axis of 2 dimensions",
    "nn.softmax(%x, axes=1)": "nn.softmax has no attribute axes",
    "nn.softmax(%x, axis=1, axis=1)": "the attribute 'axis' is given twice",
    "squeeze(%x, axis=[0])": "is not a dimension of 1",
    "cast(%x, dtype=\"complex64\")": "the element type 'complex64' is not supported",
    "let %f = fn (%a) { %f(%a) };\n%f(%x)": "line 3, column .*: the recursion",
    "match (%x) { (%a, %b) => %a }": "no clause matches a tensor",
    "300i8": "300i8 is out of the range of int8",
}  # fmt: skip


@pytest.mark.parametrize("body", ERRORS)
def test_error_says_where_and_what(body: str) -> None:
    with pytest.raises(RelayError, match=ERRORS[body]) as caught:
        from_relay(relay_text(body, {"x": X}))
    assert (caught.value.line or 0) >= 1
    assert (caught.value.column or 0) >= 1


def test_other_versions_are_refused() -> None:
    with pytest.raises(RelayError, match=r"text format '0.0.9'; versions 0.0.4 and 0.0.5"):
        from_relay('#[version = "0.0.9"]\ndef @main() { 1 }')
    with pytest.raises(RelayError, match="not the function @main"):
        from_relay(HEADER + "def @f() { 1 }\ndef @g() { 1 }")
    with pytest.raises(RelayError, match="@f is defined twice"):
        from_relay(HEADER + "def @f() { 1 }\ndef @f() { 1 }")
    with pytest.raises(RelayError, match="not a node table"):
        from_relay_json("[1]")
    with pytest.raises(RelayError, match="line 2, column 1: this is not JSON"):
        from_relay_json('{"root": 0,\n')


def test_all_unsupported_operators_are_in_one_error() -> None:
    text = HEADER + (
        "def @helper(%a) {\n  vision.non_max_suppression(%a)\n}\n"
        "def @main(%x: Tensor[(2, 3), float32]) {\n"
        "  %0 = argwhere(%x);\n  %1 = fn (%a) { argwhere(%a) };\n  @helper(%1(%x))\n}"
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        from_relay(text)
    assert sorted(caught.value.operators) == ["argwhere", "vision.non_max_suppression"]
    for part in ("line 3, column 3", "line 6, column 8", "line 7, column 18"):
        assert part in str(caught.value)


def test_what_is_known_at_run_time_only() -> None:
    condition = "if (less(sum(%x), 0f)) { %x } else { exp(%x) }"
    with pytest.raises(UnsupportedOperatorError, match="line 3, column 5: `if` on a value"):
        from_relay(relay_text(condition, {"x": X}))
    text = relay_text("nn.relu(%x)", {"x": X}).replace("(2, 3)", "(?, 3)")
    with pytest.raises(DynamicShapeError, match="x: 0") as caught:
        from_relay(text)
    assert caught.value.dimensions == ("x: 0",)


def test_parameters_must_fit() -> None:
    text = relay_text("add(%x, %w)", {"x": X, "w": X})
    with pytest.raises(RelayError, match=r"the parameter %w is float32\[2, 3\], .*float32\[3, 2\]"):
        from_relay(text, {"w": X.T})
    with pytest.raises(RelayError, match="float64"):
        from_relay(text, {"w": X.astype("float64")})
    mod = from_relay(text, {"w": X, "unused": X})
    assert list(mod["main"].attrs["input_names"]) == ["x"]
    dynamic = text.replace("%w: Tensor[(2, 3)", "%w: Tensor[(?, 3)")
    assert_close(run_module(from_relay(dynamic, {"w": X}), {"x": X})[0], 2 * X)


def test_names_of_parameters() -> None:
    """Relay printed a letter before names that start with a number."""
    text = relay_text("add(%x, %v0.weight)", {"x": X, "v0.weight": X})
    mod = from_relay(text, {"0.weight": X})
    assert list(mod["main"].attrs["input_names"]) == ["x"]
    with pytest.raises(RelayError, match="none of the 2 parameters that are given"):
        from_relay(text, {"a": X, "b": X})


def test_inputs_that_are_tuples_are_taken_apart() -> None:
    text = HEADER + "def @main(%p: (Tensor[(2, 3), float32], float32)) { multiply(%p.0, %p.1) }"
    mod = from_relay(text)
    assert list(mod["main"].attrs["input_names"]) == ["p.0", "p.1"]
    assert_close(run_module(mod, {"p.0": X, "p.1": np.array(2, "float32")})[0], 2 * X)
