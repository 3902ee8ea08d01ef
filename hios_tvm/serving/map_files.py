"""Files with many rows of inputs, and with the rows of outputs: NumPy's, and Parquet's."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hios_tvm.errors import HiosError, InputError, UsageError
from hios_tvm.files import atomic_write
from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.runtime.numpy_files import numpy_errors, read_numpy
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import TensorSpec
from hios_tvm.serving import map_images
from hios_tvm.serving.map_images import PLAIN, ImageOptions

SUFFIXES = (".npy", ".npz", ".parquet")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def find_files(path: Path) -> list[Path]:
    """Return the files with inputs in a folder, in the order of their names; or the one file.

    The pictures of a folder are together: the folder stands for them.

    Raises
    ------
    UsageError
        If there is none.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if map_images.pictures_in(path):
            found.append(path)
        if not found:
            kinds = ", ".join((*SUFFIXES, *map_images.SUFFIXES))
            raise UsageError(f"{path}: has no {kinds} files")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: is none of {', '.join(SUFFIXES)}, and no folder with such files")
    return [path]


def count_rows(path: Path, specs: Sequence[TensorSpec]) -> int:
    """Return how many rows a file has, from its header; it is found that they fit the inputs.

    Raises
    ------
    UsageError
        If the file cannot be read.
    InputError
        If an input is missing, or of another type or shape.
    """
    if path.is_dir():
        if len(specs) != 1 or not map_images.takes_pictures(specs[0]):
            raise InputError(f"{path}: has pictures, which are no input of the model")
        return len(map_images.pictures_in(path))
    found = _parquet_types(path, specs) if path.suffix == ".parquet" else _headers(path, specs)
    rows = set()
    for spec in specs:
        if spec.name not in found:
            names = ", ".join(found)
            raise InputError(f"{path}: input {spec.name!r} is missing; there are {names}")
        shape, dtype = found[spec.name]
        if dtype != numpy_dtype(spec.dtype) or not shape or shape[1:] != spec.shape[1:]:
            wanted = ", ".join(["rows", *map(str, spec.shape[1:])])
            raise InputError(
                f"{path}: {spec.name!r} is {dtype} {list(shape)}, not {spec.dtype} [{wanted}]"
            )
        rows.add(shape[0])
    if len(rows) != 1:
        raise InputError(f"{path}: its arrays have different numbers of rows: {sorted(rows)}")
    return int(rows.pop())


def _headers(
    path: Path, specs: Sequence[TensorSpec]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shapes and types of the arrays in a file of NumPy; a lone array is the lone input."""
    with numpy_errors(path):
        if path.suffix == ".npy":
            with open(path, "rb") as file:
                header = _header(file, path.stat().st_size)
            if len(specs) != 1:
                raise InputError(f"{path}: has one array for {len(specs)} inputs: write .npz files")
            return {specs[0].name: header}
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                with archive.open(info) as entry:
                    found[info.filename.removesuffix(".npy")] = _header(entry, info.file_size)
            return found


def _header(file: Any, nbytes: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array, whose file has `nbytes`; `ValueError` if it is longer."""
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    if math.prod(shape) * dtype.itemsize + file.tell() > nbytes:
        raise ValueError(f"it has {nbytes} bytes, too few for {list(shape)} of {dtype}")
    return shape, dtype


def read_rows(
    path: Path,
    specs: Sequence[TensorSpec],
    start: int,
    stop: int,
    images: ImageOptions = PLAIN,
) -> dict[str, Array]:
    """Return rows of a file, all inputs of them.

    Raises
    ------
    UsageError
        If the file cannot be read.
    MemoryLimitError
        If what has to be read for them does not fit into memory.
    InputError
        If a row has another shape, or is no picture.
    """
    if path.is_dir():
        pictures = map_images.pictures_in(path)[start:stop]
        return {specs[0].name: map_images.read_pictures(pictures, specs[0], images)}
    if path.suffix == ".parquet":
        return _parquet_rows(path, specs, start, stop, images)
    if path.suffix == ".npy":
        with numpy_errors(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {specs[0].name: np.ascontiguousarray(array[start:stop])}
    arrays = read_numpy(path)
    assert isinstance(arrays, dict)
    return {spec.name: np.ascontiguousarray(arrays[spec.name][start:stop]) for spec in specs}


def write_rows(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write outputs, whole or not at all: as Parquet, or as ``.npz``."""
    with atomic_write(path) as file:
        if path.suffix == ".parquet":
            write_parquet(file, arrays)
        else:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def _parquet_types(
    path: Path, specs: Sequence[TensorSpec]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shapes and types of columns; lists are taken to be of the right length."""
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
        return _types_of(rows, schema, specs)


def _types_of(
    rows: int, schema: Any, specs: Sequence[TensorSpec]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    import pyarrow as pa

    wanted = {spec.name: spec.shape[1:] for spec in specs}
    pictures = {spec.name: spec for spec in specs if map_images.takes_pictures(spec)}
    found = {}
    for field in schema:
        shape: tuple[int, ...] = ()
        kind = field.type
        if _is_encoded(kind) and field.name in pictures:
            spec = pictures[field.name]
            found[field.name] = ((rows, *spec.shape[1:]), numpy_dtype(spec.dtype))
        elif isinstance(kind, pa.FixedShapeTensorType):
            shape, kind = tuple(kind.shape), kind.value_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            shape, kind = wanted.get(field.name, ()), kind.value_type
        elif pa.types.is_fixed_size_list(kind):
            shape = (kind.list_size,)
            if kind.list_size == math.prod(wanted.get(field.name, ())):
                shape = wanted[field.name]
            kind = kind.value_type
        if pa.types.is_primitive(kind) and not pa.types.is_temporal(kind):
            found[field.name] = ((rows, *shape), np.dtype(kind.to_pandas_dtype()))
    return found


def _is_encoded(kind: Any) -> bool:
    """Whether a column has pictures as bytes, or as structures with their bytes."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Raise one `UsageError` for all that is raised in the block for a file that is damaged."""
    import pyarrow as pa

    try:
        yield
    except HiosError:
        raise
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
        problem = str(error).split("\n", 1)[0]
        raise UsageError(f"cannot read {path} as Parquet: {problem}") from error


def _parquet_rows(
    path: Path, specs: Sequence[TensorSpec], start: int, stop: int, images: ImageOptions
) -> dict[str, Array]:
    import pyarrow.parquet as pq

    names = [spec.name for spec in specs]
    row_bytes = sum(spec.nbytes // spec.shape[0] for spec in specs)
    with _parquet_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups: list[int] = []
        first = end = last = 0
        for i in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(i).num_rows
            if end > start and begin < stop:
                first, last = first if groups else begin, end
                groups.append(i)
        check_memory((last - first) * row_bytes, f"{path}: a row group")  # few bytes can be many
        table = file.read_row_groups(groups, columns=names).slice(start - first, stop - start)
        if table.num_rows != stop - start:
            raise ValueError(f"it has no rows {start} to {stop - 1}")
        return {
            spec.name: _rows_of(_column_of(table, spec.name), spec, path, start, images)
            for spec in specs
        }


def _rows_of(column: Any, spec: TensorSpec, path: Path, start: int, images: ImageOptions) -> Array:
    if not _is_encoded(column.type):
        return _tensor_of(column, spec, f"{path}, row", start)
    pictures = [each["bytes"] if isinstance(each, dict) else each for each in column.to_pylist()]
    return np.stack(
        [
            map_images.decode_picture(each or b"", spec, images, f"{path}, row {start + i}")
            for i, each in enumerate(pictures)
        ]
    )


def _column_of(table: Any, name: str) -> Any:
    import pyarrow as pa

    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # without any row
        column = column.chunk(0)
    return column.storage if isinstance(column.type, pa.FixedShapeTensorType) else column


def _tensor_of(column: Any, spec: TensorSpec, place: str, start: int) -> Array:
    """Return a column as rows of a tensor; `InputError` names the first row that is not right."""
    import pyarrow as pa
    import pyarrow.compute as pc

    width = math.prod(spec.shape[1:])
    is_list = not pa.types.is_primitive(column.type)
    numbers = column
    if is_list:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != width)
        if wrong.size:
            row = int(wrong[0])
            raise InputError(
                f"{place} {start + row}: {spec.name!r} has {lengths[row]} numbers, not {width}"
            )
        numbers = column.flatten()
    if numbers.null_count:
        missing = np.flatnonzero(numbers.is_null().to_numpy(zero_copy_only=False))
        raise InputError(f"{place} {start + int(missing[0]) // width}: {spec.name!r} has a null")
    array = numbers.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(array).reshape(-1, *spec.shape[1:])


def write_parquet(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write a column for each array; needs pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(array)
        if array.ndim == 1
        else pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))
        for name, array in arrays.items()
    }
    pq.write_table(pa.table(columns), file, write_page_checksum=True)
