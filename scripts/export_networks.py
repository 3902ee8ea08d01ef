"""Export networks of torchvision, timm and transformers to ONNX, with outputs in float64.

Runs where PyTorch and those three packages are installed. Weights are random, drawn from a fixed
seed. For each network the folder gets NAME.dynamo.onnx and NAME.torchscript.onnx, one for each of
PyTorch's exporters, NAME.reference.npz: inputs, and what PyTorch returns for them in float64, and
NAME.pt2: the program for torch.compile. `check_networks.py` reads the first three,
`benchmark_models.py` all.

    python scripts/export_networks.py -o networks
    python scripts/export_networks.py -o networks --only resnet50,bert --exporter dynamo
"""

import copy
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

EXPORTERS = ("dynamo", "torchscript")
DRAWS = 2
CALIBRATION_BATCH = 4
VOCABULARY, TOKENS, PADDING = 1000, 128, 28
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LEAST_CHANGE = 1e-3
"""How much outputs have to change with the inputs, relative to their largest magnitude."""

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A network: what makes it, and what draws inputs of a batch size."""

    make: Callable[[], nn.Module]
    draw: Callable[[int], Inputs]
    by_name: bool = False  # whether the inputs' names are the parameters of `forward`


class Flat(nn.Module):
    """A network that takes tensors in order and returns tensors only, no dataclass or mapping."""

    def __init__(self, network: nn.Module, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.names is None:
            output = self.network(*inputs)
        else:
            output = self.network(**dict(zip(self.names, inputs, strict=True)))
        if isinstance(output, Tensor):
            return (output,)
        values = output.values() if isinstance(output, Mapping) else output
        return tuple(value for value in values if isinstance(value, Tensor))


def image(batch: int, *, size: int = 224) -> Inputs:
    return {"image": torch.randn(batch, 3, size, size)}


def video(batch: int) -> Inputs:
    return {"video": torch.randn(batch, 3, 8, 112, 112)}


def text(batch: int) -> Inputs:
    """Token ids; the last `PADDING` of the first text's tokens are masked."""
    mask = torch.ones(batch, TOKENS, dtype=torch.int64)
    mask[0, -PADDING:] = 0
    return {"input_ids": torch.randint(VOCABULARY, (batch, TOKENS)), "attention_mask": mask}


def pixels(batch: int) -> Inputs:
    return {"pixel_values": torch.randn(batch, 3, 224, 224)}


def spectrogram(batch: int) -> Inputs:
    return {"input_features": torch.randn(batch, 80, 3000)}


def make_torchvision(name: str) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # the other way takes minutes
    elif name.startswith(("fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def make_timm(name: str) -> nn.Module:
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


def make_transformer(model: str, config: str, settings: Mapping[str, int]) -> nn.Module:
    network = getattr(transformers, model)(getattr(transformers, config)(**settings))
    network.config.use_cache = False
    part: nn.Module = network.get_encoder() if config == "WhisperConfig" else network
    return part


TORCHVISION = (
    "efficientnet_b0 efficientnet_v2_s regnet_y_400mf maxvit_t resnet50 resnext50_32x4d "
    "mobilenet_v2 mobilenet_v3_large shufflenet_v2_x1_0 mnasnet1_0 squeezenet1_1 googlenet "
    "inception_v3 densenet121 convnext_tiny swin_t swin_v2_t vit_b_16 fcn_resnet50 "
    "deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large r3d_18"
)
TIMM = (
    "ghostnet_100 hrnet_w18_small res2net50_26w_4s resnest14d mixer_s16_224 efficientformer_l1 "
    "selecsls42b dla34 ese_vovnet19b_dw coat_tiny mobilevit_s rexnet_100 tinynet_a "
    "deit_tiny_patch16_224 levit_128 xcit_nano_12_p16_224 edgenext_xx_small poolformer_s12 "
    "fastvit_t8 botnet26t_256"
)
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
TEXT: Mapping[str, tuple[str, str, Mapping[str, int]]] = {  # with few layers and words
    "bert": ("BertModel", "BertConfig", {"num_hidden_layers": 4}),
    "distilbert": ("DistilBertModel", "DistilBertConfig", {"n_layers": 4}),
    "albert": ("AlbertModel", "AlbertConfig", {"num_hidden_layers": 4, **BASE}),
    "roberta": ("RobertaModel", "RobertaConfig", {"num_hidden_layers": 4}),
    "electra": ("ElectraModel", "ElectraConfig", {"num_hidden_layers": 4}),
    "gpt2": ("GPT2Model", "GPT2Config", {"n_layer": 4}),
    "t5_encoder": ("T5EncoderModel", "T5Config", {"num_layers": 4}),
}
SIZES = {"inception_v3": 299, "mobilevit_s": 256, "fastvit_t8": 256, "botnet26t_256": 256}


def networks() -> dict[str, Network]:
    """Return all networks by name."""
    found: dict[str, Network] = {}
    for names, make in ((TORCHVISION, make_torchvision), (TIMM, make_timm)):
        for name in names.split():
            draw = partial(image, size=SIZES.get(name, 224))
            found[name] = Network(partial(make, name), video if name == "r3d_18" else draw)
    for name, (model, config, settings) in TEXT.items():
        found[name] = _transformer(model, config, text, {"vocab_size": VOCABULARY, **settings})
    found["segformer"] = _transformer(
        "SegformerForSemanticSegmentation", "SegformerConfig", pixels, {}
    )
    found["whisper_encoder"] = _transformer("WhisperModel", "WhisperConfig", spectrogram, {})
    return found


def _transformer(
    model: str, config: str, draw: Callable[[int], Inputs], settings: Mapping[str, int]
) -> Network:
    return Network(partial(make_transformer, model, config, settings), draw, by_name=True)


def prepare(network: Network, seed: int = 0) -> nn.Module:
    """Make a network whose activations are neither all alike nor vanish, for inference.

    Parameters that start with one value (biases, scales of layers) are drawn around it, so that a
    mistake of an exporter or compiler with them shows. Batch normalizations get the statistics of
    a batch.
    """
    torch.manual_seed(seed)
    inputs = network.draw(CALIBRATION_BATCH)
    module = Flat(network.make(), tuple(inputs) if network.by_name else None).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            first = parameter.flatten()[0].item()
            if bool((parameter == first).all()):
                middle = first if abs(first) > 0.1 else 0.0
                parameter.copy_(middle + 0.4 * torch.rand_like(parameter) - 0.2)
        norms = [part for part in module.modules() if isinstance(part, NORMS)]
        momenta = [part.momentum for part in norms]
        for part in norms:
            part.momentum = 1.0  # only the last batch counts
            part.train()
        if norms:
            module(*inputs.values())
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum
    return module.eval()


def export(name: str, network: Network, folder: Path, exporters: Sequence[str]) -> Iterator[str]:
    """Write a network's files and yield what became of each."""
    try:
        module = prepare(network)
        draws = [network.draw(1) for _ in range(DRAWS)]
        count = write_reference(folder / f"{name}.reference.npz", module, draws)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        yield f"reference failed: {first_line(error)}"
        return
    save_program(folder / f"{name}.pt2", module, draws[0])
    for exporter in exporters:
        file = folder / f"{name}.{exporter}.onnx"
        try:
            torch.onnx.export(
                module,
                tuple(draws[0].values()),
                file,
                input_names=list(draws[0]),
                output_names=[f"output{i}" for i in range(count)],
                dynamo=exporter == "dynamo",
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            file.unlink(missing_ok=True)
            traceback.print_exc(file=sys.stderr)
            yield f"{exporter} failed: {first_line(error)}"
        else:
            yield f"{exporter} exported"


def save_program(file: Path, module: nn.Module, inputs: Inputs) -> None:
    """Write the network for `torch.compile`, where PyTorch can."""
    try:
        torch.export.save(torch.export.export(module, tuple(inputs.values())), file)
    except Exception:
        traceback.print_exc(file=sys.stderr)


def write_reference(file: Path, module: nn.Module, draws: Sequence[Inputs]) -> int:
    """Write inputs and outputs in float64 and return how many outputs there are.

    Raises
    ------
    ValueError
        If outputs hardly depend on the inputs: no comparison of them would show anything.
    """
    exact = copy.deepcopy(module).double()
    arrays: dict[str, Tensor] = {}
    results = []
    for i, inputs in enumerate(draws):
        values = [v.double() if v.is_floating_point() else v for v in inputs.values()]
        with torch.no_grad():
            results.append(exact(*values))
        arrays |= {f"{i}/input/{key}": value for key, value in inputs.items()}
        arrays |= {f"{i}/output/output{k}": value for k, value in enumerate(results[-1])}
    for first, second in zip(results[0], results[1], strict=True):
        change = (first - second).abs().max() / first.abs().max()
        if not change > LEAST_CHANGE:
            raise ValueError(f"outputs change by {change:.1e} only when inputs do")
    np.savez(file, **{key: value.numpy() for key, value in arrays.items()})
    return len(results[0])


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


@click.command(help=__doc__)
@click.option("-o", "--output", "folder", default="networks", type=click.Path(path_type=Path))
@click.option("--only", help="Comma-separated names.  [default: all networks]")
@click.option(
    "--exporter", type=click.Choice([*EXPORTERS, "both"]), default="both", show_default=True
)
@click.option("--list", "only_names", is_flag=True, help="Print the names and stop.")
def main(folder: Path, only: str | None, exporter: str, only_names: bool) -> None:
    known = networks()
    if only_names:
        print("\n".join(known))
        return
    names = list(known) if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise click.UsageError(f"there is no network {name!r}; see --list")
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # exporters warn about every check of a shape
    exporters = EXPORTERS if exporter == "both" else (exporter,)
    failures = 0
    for name in names:
        for result in export(name, known[name], folder, exporters):
            print(f"{name}: {result}", flush=True)
            failures += "failed" in result
    print(f"{len(names)} networks, {failures} failures")


if __name__ == "__main__":
    main()
