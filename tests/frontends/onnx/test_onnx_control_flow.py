"""Branches, loops and sequences, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx_models import assert_same_outputs, make_model, node, noise, run_onnx_runtime

from hios_tvm import onnx_backend
from hios_tvm.errors import DynamicShapeError, ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

X = noise(3, 4)


def model_of(text: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')


def check(text: str, feeds: Mapping[str, np.ndarray], opset: int = 17) -> None:
    model = model_of(text, opset)
    expected = run_onnx_runtime(model, feeds)
    shapes = {name: array.shape for name, array in feeds.items()}
    actual = onnx_backend.prepare(model, shapes=shapes).run(feeds)
    for value, ours, theirs in zip(model.graph.output, actual, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), value.name
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=value.name)


def test_loops() -> None:
    check(
        """
        g (float[3,4] x) => (float[3,4] y, float[3,3,4] z, float[1] w, int64[k] counts)
        <int64 three = {3}, bool yes = {1}, float[1] one = {1.5}, int64 two = {2},
         int64 hundred = {100}>
        {
            y, z = Loop (three, , x) <body = powers (int64 i, bool c, float[3,4] a) 
                => (bool c2, float[3,4] b, float[3,4] s) {
                c2 = Identity (c)
                b = Add (a, a)
                f = Cast <to = 1> (i)
                s = Mul (b, f)
            }>
            total = ReduceSum <keepdims = 0> (x)
            w, counts = Loop (hundred, yes, one)
                <body = until (int64 i, bool c, float[1] a) => (bool c2, float[1] b, int64 i2) {
                    c2 = Less (i, two)
                    b = Mul (a, total)
                    i2 = Identity (i)
                }>
        }
        """,
        {"x": X},
    )


def test_a_loop_without_iterations() -> None:
    check(
        """
        g (float[3,4] x) => (float[3,4] y, float[n,2] z) <int64 zero = {0}, float[2] w = {1, 2}>
        {
            y, z = Loop (zero, , x)
                <body = b (int64 i, bool c, float[3,4] a) => (bool c2, float[3,4] b, float[2] s) {
                    c2 = Identity (c)
                    b = Neg (a)
                    s = Identity (w)
                }>
        }
        """,
        {"x": X},
    )


def test_branches_in_loops_and_names_of_the_graph_around() -> None:
    check(
        """
        g (float[3,4] x) => (float[3,4] y) <int64 four = {4}, int64 two = {2}, bool yes = {1}>
        {
            y = Loop (four, yes, x)
                <body = b (int64 i, bool c, float[3,4] a) => (bool c2, float[3,4] r) {
                    c2 = Identity (c)
                    early = Less (i, two)
                    r = If (early) <
                        then_branch = t () => (float[3,4] s) { s = Add (a, x) },
                        else_branch = e () => (float[3,4] s) { s = Mul (a, x) }>
                }>
        }
        """,
        {"x": X},
    )


@pytest.mark.parametrize("direction", [0, 1])
def test_scans(direction: int) -> None:
    check(
        f"""
        g (float[4] s, float[3,4] x, float[4,3] z) => (float[4] last, float[3,4] u, float[4,3] v)
        {{
            last, u, v = Scan <num_scan_inputs = 2, scan_input_axes = [0, -1],
                scan_input_directions = [{direction}, 0], scan_output_axes = [0, 1],
                scan_output_directions = [0, {direction}],
                body = b (float[4] a, float[4] p, float[4] q)
                    => (float[4] a2, float[4] m, float[4] n) {{
                    t = Mul (p, q)
                    a2 = Add (a, t)
                    m = Identity (a2)
                    n = Sub (p, q)
                }}> (s, x, z)
        }}
        """,
        {"s": noise(4), "x": X, "z": noise(4, 3, seed=1)},
    )


def test_scans_of_version_8() -> None:
    """A batch in front, and sequences that may be shorter."""
    check(
        """
        g (float[2,4] s, float[2,3,4] x) => (float[2,4] last, float[2,3,4] u)
        <int64[2] lengths = {3, 2}>
        {
            last, u = Scan <num_scan_inputs = 1, directions = [1],
                body = b (float[4] a, float[4] p) => (float[4] a2, float[4] m) {
                    a2 = Add (a, p)
                    m = Mul (a2, p)
                }> (lengths, s, x)
        }
        """,
        {"s": noise(2, 4), "x": noise(2, 3, 4, seed=1)},
        opset=8,
    )


def test_sequences() -> None:
    check(
        """
        g (float[3,4] x, float[2,4] z)
            => (float[a,b] joined, float[c,d,e] stacked, int64 count, float[f,g] at, float[h] row,
                float[i,j] parts, float[k,l] more)
        <int64 one = {1}, int64 last = {-1}, int64 zero = {0}, int64 two = {2},
         int64[2] sizes = {1, 3}>
        {
            s = SequenceConstruct (x, z)
            s2 = SequenceInsert (s, x, last)
            s3 = SequenceErase (s2, zero)
            joined = ConcatFromSequence <axis = 0> (s2)
            same = SequenceConstruct (x, x)
            stacked = ConcatFromSequence <axis = -1, new_axis = 1> (same)
            count = SequenceLength (s3)
            at = SequenceAt (s3, last)
            rows = SplitToSequence <axis = 0, keepdims = 0> (x)
            row = SequenceAt (rows, one)
            halves = SplitToSequence <axis = 0> (x, two)
            half = SequenceAt (halves, last)
            given = SplitToSequence <axis = 1> (x, sizes)
            parts = SequenceAt (given, one)
            none = SequenceEmpty <dtype = 1> ()
            some = SequenceInsert (none, half)
            more = ConcatFromSequence <axis = 1> (some)
        }
        """,
        {"x": X, "z": noise(2, 4)},
    )


def test_sequences_as_states_of_loops() -> None:
    check(
        """
        g (float[3,4] x) => (float[a,b] y) <int64 three = {3}>
        {
            none = SequenceEmpty <dtype = 1> ()
            all = Loop (three, , none)
                <body = b (int64 i, bool c, seq(float[3,4]) a) => (bool c2, seq(float[3,4]) b) {
                    c2 = Identity (c)
                    f = Cast <to = 1> (i)
                    t = Add (x, f)
                    b = SequenceInsert (a, t)
                }>
            y = ConcatFromSequence <axis = 0> (all)
        }
        """,
        {"x": X},
    )


def test_maps_over_sequences() -> None:
    check(
        """
        g (float[3,4] x, float[1] w) => (float[3,4] y)
        {
            rows = SplitToSequence <axis = 0> (x)
            sums = SequenceMap <body = b (float[1,4] r, float[1] k) => (float[1,4] s) {
                s = Mul (r, k)
            }> (rows, w)
            y = ConcatFromSequence <axis = 0> (sums)
        }
        """,
        {"x": X, "w": noise(1)},
    )


def test_optional_values() -> None:
    check(
        """
        g (float[3,4] x) => (float[3,4] y, bool yes)
        {
            some = Optional (x)
            yes = OptionalHasElement (some)
            y = If (yes) <
                then_branch = t () => (float[3,4] s) { s = OptionalGetElement (some) },
                else_branch = e () => (float[3,4] s) { s = Neg (x) }>
        }
        """,
        {"x": X},
    )


BODY = "body = b (int64 i, bool c, float[3,4] a) => (bool c2, float[3,4] r)"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            f"""g (float[3,4] x, int64 n) => (float[3,4] y) {{
                y = Loop (n, , x) <{BODY} {{ c2 = Identity (c) r = Neg (a) }}>
            }}""",
            DynamicShapeError,
            "Loop 'y': its iterations are not known before the model runs",
        ),
        (
            f"""g (float[3,4] x) => (float[3,4] y) <bool yes = {{1}}, float limit = {{9}}> {{
                y = Loop (, yes, x) <{BODY} {{
                    s = ReduceSum <keepdims = 0> (a) c2 = Less (s, limit) r = Neg (a)
                }}>
            }}""",
            UnsupportedOperatorError,
            "the condition of its body depends on data",
        ),
        (
            f"""g (float[3,4] x) => (float[3,4] y) <bool yes = {{1}}> {{
                y = Loop (, yes, x) <{BODY} {{ c2 = Identity (c) r = Neg (a) }}>
            }}""",
            UnsupportedOperatorError,
            "it has more than 1000 iterations",
        ),
        (
            """g (float[3,4] x) => (float[3,4] y) <int64 two = {2}> {
                s = SequenceConstruct (x, x)
                y = SequenceAt (s, two)
            }""",
            ModelError,
            "SequenceAt 'y': position 2 is not in a sequence of 2 tensors",
        ),
        (
            """g (float[3,4] x) => (float[3,4] y) {
                s = SequenceConstruct (x, x)
                y = Neg (s)
            }""",
            ModelError,
            "Neg 'y': input 1 must be a tensor",
        ),
        (
            """g (float[3,4] x) => (float[3,4] y) {
                none = Optional <type = float[3,4]> ()
                y = OptionalGetElement (none)
            }""",
            ModelError,
            "its optional input has no value",
        ),
    ],
)
def test_what_cannot_be_decided_at_import(text: str, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        from_onnx(model_of(text))


@pytest.mark.parametrize("condition", [True, False])
def test_known_conditions_choose_a_branch(condition: bool) -> None:
    def branch(op: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("b", TensorProto.FLOAT, (4,))
        weight = numpy_helper.from_array(noise(4), "bias")
        return helper.make_graph([node(op, "r bias", "b")], op, [], [result], [weight])

    nodes = [
        node("Relu", "x", "r"),
        node("If", "c", "i", then_branch=branch("Add"), else_branch=branch("Mul")),
        node("Neg", "i", "y"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], {"c": np.array(condition)})
    assert_same_outputs(from_onnx(model), model, {"x": noise(4)})


def test_conditions_on_data_are_unsupported() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, (1,))],
    )
    nodes = [
        node("Cast", "x", "c", to=TensorProto.BOOL),
        node("If", "c", "y", name="choose", then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"If 'choose': .* condition") as caught:
        from_onnx(make_model(nodes, {"x": (1,)}, ["y"]))
    assert caught.value.operators == ("If",)
