"""Jobs over many rows: files, parts, what is left of a job, and what is wrong with a row."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hios_tvm.cli import main
from hios_tvm.errors import InputError, UsageError
from hios_tvm.runtime import load
from hios_tvm.schema.manifest import TensorSpec
from hios_tvm.serving import map_job
from hios_tvm.serving.map_files import count_rows, find_files, read_rows, write_rows
from hios_tvm.serving.map_images import ImageOptions
from hios_tvm.serving.map_job import MapJob, RowsOfRun, run_part

NEEDS_RAY = "needs pip install 'hios-tvm[fleet]'"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason=NEEDS_RAY)
SPECS = (TensorSpec(name="x", buffer="x", shape=(1, 4), dtype="float32"),)
ROWS = np.arange(28, dtype=np.float32).reshape(7, 4)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with 7 rows in one file, 2 in another."""
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", ROWS)
    np.savez(folder / "b.npz", x=-ROWS[:2])
    (folder / "notes.txt").write_text("no rows")
    return folder


def test_a_job_is_resumed_where_outputs_are_missing(
    inputs: Path, twice: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with load(twice) as session:
        rows_of_run = RowsOfRun.of(session.manifest)
        job = MapJob.plan("identity", inputs, session.inputs, rows_of_run, part_rows=3)
        assert job.rows == 9
        assert [(part.start, part.stop) for part in job.parts] == [(0, 3), (3, 6), (6, 7), (0, 2)]
        assert job.left(folder) == list(job.parts)
        for part in job.parts[:3]:
            write_rows(folder / part.output, run_part(session, part, rows_of_run))
    assert job.left(folder) == [job.parts[3]]
    found = [np.load(folder / part.output)["y"] for part in job.parts[:3]]
    assert np.array_equal(np.concatenate(found), 2 * ROWS)
    again = MapJob.plan("identity", inputs, SPECS, rows_of_run, part_rows=3)
    assert again.left(folder) == [job.parts[3]]
    other = MapJob.plan("another artifact", inputs, SPECS, rows_of_run, part_rows=3)
    with pytest.raises(UsageError, match="outputs of another job \\(its artifact differ"):
        other.left(folder)


def test_parts_begin_with_whole_runs(inputs: Path) -> None:
    job = MapJob.plan("", inputs / "a.npy", SPECS, RowsOfRun(1, 4), part_rows=6)
    assert [(part.start, part.stop) for part in job.parts] == [(0, 4), (4, 7)]
    with pytest.raises(InputError, match=r"a.npy: has 7 rows; 1 are left .* takes 2 at least"):
        MapJob.plan("", inputs / "a.npy", SPECS, RowsOfRun(2, 3), part_rows=6)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"z": ROWS}, "input 'x' is missing; there are z"),
        ({"x": ROWS.astype(float)}, r"'x' is float64 \[7, 4\], not float32 \[rows, 4\]"),
        ({"x": ROWS[:, :3]}, r"'x' is float32 \[7, 3\], not float32 \[rows, 4\]"),
        ({"x": ROWS[0]}, r"'x' is float32 \[4\], not float32 \[rows, 4\]"),
    ],
)
def test_files_that_do_not_fit_are_named(
    arrays: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=f"rows.npz: {problem}"):
        count_rows(path, SPECS)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing.npy", "there is no such file"),
        ("in/notes.txt", "is none of .npy, .npz, .parquet"),
        (".", "has no .npy, .npz, .parquet, .jpeg"),
        ("in/broken.npy", "cannot read .*broken.npy"),
        ("in/longer.npy", r"it has 240 bytes, too few for \[1000000000000, 4\] of float32"),
        ("in/unclosed.npy", "cannot read .*unclosed.npy"),
        ("in/b.npz", "has 2 rows: they make more than 1 files of outputs with --part-rows 1"),
    ],
)
def test_files_without_rows_are_named(
    name: str, problem: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_job, "MAX_PARTS", 1)
    (inputs / "broken.npy").write_bytes(b"broken")
    whole = (inputs / "a.npy").read_bytes()
    longer = whole.replace(b"(7, 4), }" + b" " * 12, b"(1000000000000, 4), }")
    (inputs / "longer.npy").write_bytes(longer)
    (inputs / "unclosed.npy").write_bytes(whole.replace(b"(7, 4)", b"((7, 4"))
    with pytest.raises(UsageError, match=problem):
        MapJob.plan("", tmp_path / name, SPECS, RowsOfRun(1, 1), part_rows=1)


def test_rows_of_parquet_are_those_of_numpy(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason=NEEDS_RAY)
    parquet = pytest.importorskip("pyarrow.parquet", reason=NEEDS_RAY)
    path = tmp_path / "rows.parquet"
    flat = pa.array(ROWS.ravel())
    for column in (
        pa.array(ROWS.tolist(), pa.list_(pa.float32())),
        pa.FixedSizeListArray.from_arrays(flat, 4),
        pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
    ):
        parquet.write_table(pa.table({"x": column, "id": range(7)}), path, row_group_size=3)
        assert count_rows(path, SPECS) == 7
        assert np.array_equal(read_rows(path, SPECS, 2, 5)["x"], ROWS[2:5])
    write_rows(path, {"x": ROWS})
    assert np.array_equal(read_rows(path, SPECS, 0, 7)["x"], ROWS)
    rows = ROWS.tolist()
    for row, problem in ((rows[5][:3], "'x' has 3 numbers, not 4"), ([None] * 4, "has a null")):
        wrong = pa.array([*rows[:5], row, rows[6]], pa.list_(pa.float32()))
        parquet.write_table(pa.table({"x": wrong}), path)
        with pytest.raises(InputError, match=f"rows.parquet, row 5: .*{problem}"):
            read_rows(path, SPECS, 4, 7)


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["map", "a.hios", "rows.npy", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "pip install 'hios-tvm[fleet]'" in result.output


PICTURE = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)


def png(array: np.ndarray) -> bytes:
    image = pytest.importorskip("PIL.Image", reason=NEEDS_RAY)
    image.fromarray(array).save(file := BytesIO(), "PNG")
    return file.getvalue()


def pictures(*shape: int, dtype: str = "float32") -> tuple[TensorSpec]:
    return (TensorSpec(name="x", buffer="x", shape=(1, *shape), dtype=dtype),)


def test_pictures_in_a_folder_are_rows(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, array in (("b.png", PICTURE), ("a.PNG", 255 - PICTURE)):
        (folder / name).write_bytes(png(array))
    assert find_files(folder) == [folder]
    first, last = pictures(3, 2, 3), pictures(2, 3, 3, dtype="uint8")
    assert count_rows(folder, first) == 2
    rows = np.stack([255 - PICTURE, PICTURE])
    assert np.array_equal(read_rows(folder, last, 0, 2)["x"], rows)
    options = ImageOptions.parse("0.5", "0.2,0.3,0.4")
    expected = (rows[1:] / np.float32(255) - 0.5) / np.float32([0.2, 0.3, 0.4])
    found = read_rows(folder, first, 1, 2, options)["x"]
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-6)
    assert read_rows(folder, pictures(1, 8, 9), 0, 2)["x"].shape == (2, 1, 8, 9)
    job = MapJob.plan("", folder, first, RowsOfRun(1, 2), 2, options)
    assert [(part.output, part.stop) for part in job.parts] == [("photos.000000000.npz", 2)]
    assert [name for name, _, _ in job.files] == ["a.PNG", "b.png"]
    job.left(tmp_path / "out")
    other = MapJob.plan("", folder, first, RowsOfRun(1, 2), 2)
    with pytest.raises(UsageError, match="another job \\(its images differ"):
        other.left(tmp_path / "out")
    (folder / "a.PNG").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"a\.PNG: no PNG or JPEG that can be read"):
        read_rows(folder, first, 0, 2)
    with pytest.raises(InputError, match="has pictures, which are no input of the model"):
        count_rows(folder, SPECS)


@pytest.mark.parametrize("mean", ["", "x", "1,2", "nan", "1e9"])
def test_numbers_that_pictures_cannot_have_are_refused(mean: str) -> None:
    with pytest.raises(UsageError, match="--mean has to be one number or three"):
        ImageOptions.parse(mean, "1")


def test_pictures_in_parquet_are_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason=NEEDS_RAY)
    parquet = pytest.importorskip("pyarrow.parquet", reason=NEEDS_RAY)
    path, spec = tmp_path / "rows.parquet", pictures(2, 3, 3, dtype="uint8")
    encoded = [png(PICTURE), png(255 - PICTURE), None]
    structures = [{"bytes": each, "path": "x"} for each in encoded]
    for column in (pa.array(encoded, pa.binary()), pa.array(structures)):
        parquet.write_table(pa.table({"x": column}), path)
        assert count_rows(path, spec) == 3
        assert np.array_equal(read_rows(path, spec, 1, 2)["x"], 255 - PICTURE[None])
        with pytest.raises(InputError, match=r"rows\.parquet, row 2: no PNG or JPEG"):
            read_rows(path, spec, 1, 3)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_files_that_are_damaged_behind_their_header_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    rows = np.arange(40_000, dtype=np.float32).reshape(-1, 4)
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason=NEEDS_RAY)
    write_rows(path, {"x": rows})
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)  # of the data
    path.write_bytes(content)
    assert count_rows(path, SPECS) == 10_000
    with pytest.raises(UsageError, match=rf"rows.{suffix}.*"):
        read_rows(path, SPECS, 0, 10_000)


def map_command(*words: object) -> list[str]:
    code = "from hios_tvm.cli import main; main()"
    return [sys.executable, "-c", code, "map", *map(str, words)]


@needs_ray
def test_a_job_on_ray(inputs: Path, twice: Path, tmp_path: Path) -> None:
    """Lists and tensors of Parquet, and arrays of NumPy."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    out = tmp_path / "out"
    lists = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
    parquet.write_table(pa.table({"x": lists}), inputs / "c.parquet", row_group_size=2)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)
    parquet.write_table(pa.table({"x": tensors}), inputs / "d.parquet")
    command = map_command(twice, inputs, "-o", out, "--part-rows", "3")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "outputs for 23 rows in 10 files" in done.stdout
    found = [np.load(path)["y"] for path in sorted(out.glob("a.npy.*"))]
    assert np.array_equal(np.concatenate(found), 2 * ROWS)
    outputs = (TensorSpec(name="y", buffer="y", shape=(1, 4), dtype="float32"),)
    for name in ("c.parquet", "d.parquet"):
        parts = sorted(out.glob(f"{name}.*"))
        found = [read_rows(path, outputs, 0, count_rows(path, outputs))["y"] for path in parts]
        assert np.array_equal(np.concatenate(found), 2 * ROWS)


@needs_ray
def test_a_job_ends_at_a_file_that_is_damaged(twice: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.ones((1000, 4), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes(100) + content[2100:])
    command = map_command(twice, path, "-o", tmp_path / "out")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"cannot read {path}" in done.stderr and "Traceback" not in done.stderr
    path.write_bytes(content)  # its time has changed, so that it is another job
    done = subprocess.run(command, capture_output=True, text=True)
    assert "has outputs of another job (its files differ)" in done.stderr


@needs_ray
def test_a_job_that_was_killed_goes_on(twice: Path, tmp_path: Path) -> None:
    rows = np.arange(4000, dtype=np.float32).reshape(-1, 4)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "out"
    command = map_command(twice, tmp_path / "rows.npy", "-o", out, "--part-rows", "1")
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("rows.npy.*.npz")):
        assert killed.poll() is None
        threading.Event().wait(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (kept,) = re.findall(r"1000 rows in 1000 files, (\d+) of them from before", done.stdout)
    assert 1 <= int(kept) < 1000
    found = [np.load(path)["y"] for path in sorted(out.glob("rows.npy.*.npz"))]
    assert np.array_equal(np.concatenate(found), 2 * rows)
