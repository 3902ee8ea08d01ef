import math

import numpy as np
import pytest
from lowered_models import assert_lowers_right, kernels, lowered, model_of, run_lowered
from onnx import ModelProto, helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.gelu import RecognizeGelu

FORMS = {
    "half last": [("Mul", "x", "sum", "p"), ("Mul", "p", "half", "y")],
    "half first": [("Mul", "half", "x", "p"), ("Mul", "p", "sum", "y")],
    "half with the sum": [("Mul", "sum", "half", "p"), ("Mul", "x", "p", "y")],
}


def written_out(form: str, scale: str = "Div") -> ModelProto:
    number = math.sqrt(2.0) if scale == "Div" else math.sqrt(0.5)
    nodes = [
        helper.make_node(scale, ["x", "root"], ["s"]),
        helper.make_node("Erf", ["s"], ["e"]),
        helper.make_node("Add", ["one", "e"], ["sum"]),
        *(helper.make_node(op, [a, b], [out]) for op, a, b, out in FORMS[form]),
    ]
    numbers = {"root": number, "one": 1.0, "half": 0.5}
    weights = {name: np.array(value, np.float32) for name, value in numbers.items()}
    return model_of(nodes, {"x": (8, 50)}, weights)


@pytest.mark.parametrize("scale", ["Div", "Mul"])
@pytest.mark.parametrize("form", FORMS)
def test_the_product_with_an_error_function_is_recognized(form: str, scale: str) -> None:
    model = written_out(form, scale)
    assert [name for name in kernels(lowered(model)) if "erf" in name] == []
    assert_lowers_right(model)


def test_other_numbers_are_no_gelu() -> None:
    model = written_out("half last")
    model.graph.initializer[2].raw_data = np.float32(0.25).tobytes()
    assert [name for name in kernels(lowered(model)) if "erf" in name] != []
    assert_lowers_right(model)


def test_the_form_of_exporters_becomes_the_operator() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 5), "float32")):
            with R.dataflow():
                a = R.divide(x, R.const(1.4142135, "float32"))
                b = R.erf(a)
                c = R.add(b, R.const(1.0, "float32"))
                d = R.multiply(x, c)
                y = R.multiply(d, R.const(0.5, "float32"))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 5), "float32")):
            with R.dataflow():
                y = R.nn.gelu(x)
                R.output(y)
            return y

    assert_becomes(RecognizeGelu(), Before, Expected)


def test_values_are_more_exact_than_those_of_the_usual_formula() -> None:
    """To 4e-6 of each value from -4 on, and to 1e-10 before; the formula: 5e-4 of it at -4."""
    x = np.concatenate([np.linspace(-9, 10, 4001), -np.logspace(-30, 0, 500)]).astype(np.float32)
    (got,) = run_lowered(model_of_gelu(len(x)), {"x": x})
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)])
    np.testing.assert_allclose(got, exact, rtol=4e-6, atol=1e-10)


def test_values_at_the_ends() -> None:
    x = np.array([-3e38, -1e4, -30, -8, 0, 8, 1e4, 3e38, np.inf, np.nan], np.float32)
    (got,) = run_lowered(model_of_gelu(len(x)), {"x": x})
    expected = [0, 0, 0, 0, 0, 8, 1e4, 3e38, np.inf, np.nan]
    np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6, atol=1e-13)


def model_of_gelu(size: int) -> ModelProto:
    model = model_of([helper.make_node("Gelu", ["x"], ["y"])], {"x": (size,)})
    model.opset_import[0].version = 20
    return model
