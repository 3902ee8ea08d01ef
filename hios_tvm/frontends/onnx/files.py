"""Reading ONNX files and the external files that hold their weights.

A model file names its external files itself, so a hostile one could name any file of this
machine. Only regular files below the model's folder are read, where "the model's folder" is the one
that the path names and, if the model is a symbolic link, also the one that it leads to (caches of
model hubs keep links to models and weights that lie side by side elsewhere).
"""

import os
import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import GraphProto, ModelProto, TensorProto, helper

from hios_tvm.errors import ModelError

GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ZIP_ARCHIVE = b"PK\x03\x04"
PACKED_BITS = {  # what NumPy holds one to a byte
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file, without its external data.

    Raises
    ------
    ModelError
        If the file is missing, unreadable, or no ONNX model.
    """
    if path.is_dir():
        models = ", ".join(sorted(entry.name for entry in path.glob("*.onnx"))) or "none"
        raise ModelError(f"{path} is a folder; give an ONNX file (in the folder: {models})")
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a regular file; give an ONNX file")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {path}: {reason}; check the path") from error
    if not content:
        raise ModelError(f"{path} is empty; export or download the model again")
    if content.startswith(GIT_LFS_POINTER):
        raise ModelError(f"{path} is only a Git LFS pointer; fetch the model with 'git lfs pull'")
    if content.startswith(ZIP_ARCHIVE):
        raise ModelError(
            f"{path} is an archive, probably of PyTorch; export it with torch.onnx.export"
        )
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, a class without type hints
        raise ModelError(
            f"{path} is not an ONNX model, or is cut off; export or download it again"
        ) from error
    if not model.HasField("graph"):
        raise ModelError(f"{path} is not an ONNX model: it has no graph; export it again")
    return model


def load_external_data(model: ModelProto, path: Path) -> None:
    """Read the external data of `model` into it.

    Parameters
    ----------
    model : ModelProto
        Changed in place.
    path : Path
        The model's file, or any path in the folder that `model` counts as its own.

    Raises
    ------
    ModelError
        If an external file is missing, too short, or outside of the model's folder.
    """
    for tensor in external_tensors(model.graph):
        try:
            tensor.raw_data = _read_tensor(tensor, path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            location = _entry(tensor, "location")
            raise ModelError(
                f"{path}: cannot read tensor {tensor.name!r} from {location!r}: {reason}"
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def external_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The tensors of a graph and its subgraphs that lie in other files."""
    return (tensor for tensor in _tensors(graph) if tensor.data_location == TensorProto.EXTERNAL)


def _read_tensor(tensor: TensorProto, path: Path) -> bytes:
    size = _bytes_of(tensor)
    offset = _number(tensor, "offset", default=0)
    length = _number(tensor, "length", default=size)
    if length != size:
        raise ValueError(f"its shape asks for {size} bytes, its entry says {length}")
    file = _resolve(_entry(tensor, "location"), path)
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_nlink > 1:
            raise ValueError(
                "the file has hard links, which may lead out of the model's folder; copy it"
            )
        if offset + size > status.st_size:
            raise ValueError(
                f"the file has {status.st_size} bytes, {offset + size} are needed; is it cut off?"
            )
        stream.seek(offset)
        return stream.read(size)


def _resolve(location: str, path: Path) -> Path:
    """The real path of an external file, which lies below one of the model's folders."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location or "\0" in location:
        raise ValueError("it does not name a file")
    if posix.is_absolute() or windows.drive or windows.root:
        raise ValueError("the path is not relative to the model")
    if ".." in windows.parts:  # splits at both kinds of slash
        raise ValueError("the path leads out of the model's folder")
    folders = list(dict.fromkeys([path.parent.resolve(), path.resolve().parent]))
    for folder in folders:
        file = (folder / location).resolve()
        if any(file.is_relative_to(allowed) for allowed in folders):
            if file.exists():
                return file
        elif (folder / location).exists():
            raise ValueError("the path leads out of the model's folder through a symbolic link")
    raise ValueError("no such file; put it beside the model")


def _bytes_of(tensor: TensorProto) -> int:
    if any(dimension < 0 for dimension in tensor.dims):
        raise ValueError(f"its shape {list(tensor.dims)} has a negative dimension")
    try:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise ValueError(f"unknown element type {tensor.data_type}") from None
    bits = PACKED_BITS.get(tensor.data_type, 8 * int(kind.itemsize))
    return -(-prod(int(dimension) for dimension in tensor.dims) * bits // 8)


def _entry(tensor: TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _number(tensor: TensorProto, key: str, *, default: int) -> int:
    text = _entry(tensor, key)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"its {key} is {text!r}")
    return int(text)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph and its subgraphs: initializers and attributes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _tensors(subgraph)
