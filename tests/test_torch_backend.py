"""``torch.compile(model, backend="hios")``, compared with PyTorch itself."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hios_tvm.errors import DeviceError

torch = pytest.importorskip("torch", reason="needs pip install 'hios-tvm[torch]'")
pytest.importorskip("onnxscript", reason="needs pip install 'hios-tvm[torch]'")

hios = pytest.importorskip("hios_tvm.torch_backend").hios

QUICK = {"devices": f"cpu@{min(os.sched_getaffinity(0))}", "scheduler": "greedy", "verify": False}

pytestmark = pytest.mark.filterwarnings("ignore", "error:hios")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)


class Network(torch.nn.Module):
    """Integers and numbers in; two tensors, one of them an input, out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 8)
        self.norm = torch.nn.BatchNorm1d(8)

    def forward(self, ids: Any, x: Any, factor: int = 2) -> dict[str, Any]:
        return {"y": self.norm(self.table(ids) + x * factor).relu(), "rest": (ids, None, 3)}


def inputs(rows: int) -> tuple[Any, Any]:
    return torch.arange(rows), torch.randn(rows, 8)


def test_a_model_computes_what_pytorch_does_for_each_shape() -> None:
    model = Network().eval()
    compiled = torch.compile(model, backend=hios, options=QUICK)
    with torch.inference_mode():
        for rows in (3, 5, 5):
            given = inputs(rows)
            found, expected = compiled(*given), model(*given)
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(compiled(*given, factor=3), model(*given, factor=3))
        model.norm.bias.add_(1)  # the artifact holds weights as they were
        torch.testing.assert_close(compiled(*given), model(*given))


def test_wrong_options_are_errors() -> None:
    compiled = torch.compile(lambda x: x + x, backend=hios, options={"devices": "tpu:0"})
    with pytest.raises(DeviceError, match="'tpu:0' is unknown"):
        compiled(torch.ones(2))


def test_other_shapes_than_the_first_eight_run_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hios_tvm.torch_backend.MOST_VARIANTS", 1)
    compiled = torch.compile(lambda x: x + x, backend=hios, options=QUICK, dynamic=True)
    assert compiled(torch.ones(2)).shape == (2,)
    with pytest.warns(UserWarning, match="compiled for 1 combinations of shapes and weights"):
        assert compiled(torch.ones(3)).shape == (3,)


def test_layers_of_one_graph_have_their_own_weights() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Any) -> Any:
            return x @ self.weight

    graphs = []

    def backend(*arguments: Any) -> Any:
        graphs.append(hios(*arguments, options=QUICK))
        return graphs[-1]

    layers = [Layer(), Layer()]
    x = torch.randn(2, 8)
    with torch.no_grad():
        expected = [layer(x) for layer in layers]
        for layer in layers:
            layer.compile(backend=backend)
        torch.testing.assert_close([layer(x) for layer in layers], expected)
    assert graphs


def test_types_that_numpy_does_not_have() -> None:
    x = torch.arange(4, dtype=torch.bfloat16)
    doubled = torch.compile(lambda x: x + x, backend=hios, options=QUICK)(x)
    assert doubled.dtype == torch.bfloat16 and doubled.equal(x + x)


def test_training_runs_in_pytorch() -> None:
    model = Network().train()
    compiled = torch.compile(model, backend=hios)
    with pytest.warns(UserWarning, match="gradients are enabled"):
        loss = compiled(*inputs(4))["y"].sum()
    loss.backward()
    assert model.table.weight.grad is not None
    before = model.norm.running_mean.clone()
    with torch.no_grad(), pytest.warns(UserWarning, match=r"as in training: call model.eval\(\)"):
        compiled(*inputs(4))
    assert not model.norm.running_mean.equal(before)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.linalg.svd(x)[1], "PyTorch cannot export it to ONNX: No .*svd"),
        (lambda x: x + torch.rand_like(x), "no import for the operators RandomUniformLike"),
        (lambda x: x.add_(1) * 2, "it changes its inputs in place"),
    ],
)
def test_what_cannot_be_compiled_runs_in_pytorch(function: Any, reason: str) -> None:
    compiled = torch.compile(function, backend=hios)
    torch.manual_seed(0)
    expected = function(torch.eye(3))
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=f"hios: a graph runs in PyTorch: .*{reason}") as caught:
        torch.testing.assert_close(compiled(torch.eye(3)), expected)
        compiled(torch.eye(3))
    assert len([w for w in caught if "hios:" in str(w.message)]) == 1
