"""Jobs over many rows: files, parts, what is left of a job, and what is wrong with a row."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hios_tvm.cli import main
from hios_tvm.errors import InputError, UsageError
from hios_tvm.runtime import load
from hios_tvm.schema.manifest import TensorSpec
from hios_tvm.serving.map_files import count_rows, read_rows, write_rows
from hios_tvm.serving.map_job import MapJob, RowsOfRun, run_part

NEEDS_RAY = "needs pip install 'hios-tvm[fleet]'"
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
        (".", "has no .npy, .npz, .parquet files"),
        ("in/broken.npy", "cannot be read"),
    ],
)
def test_files_without_rows_are_named(
    name: str, problem: str, inputs: Path, tmp_path: Path
) -> None:
    (inputs / "broken.npy").write_bytes(b"broken")
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


@pytest.mark.skipif(find_spec("ray") is None, reason=NEEDS_RAY)
def test_a_job_on_ray(inputs: Path, twice: Path, tmp_path: Path) -> None:
    code = "from hios_tvm.cli import main; main()"
    words = ("map", twice, inputs, "-o", tmp_path / "out", "--part-rows", "3")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True
    )
    assert "outputs for 9 rows in 4 files" in done.stdout
    found = [np.load(path)["y"] for path in sorted((tmp_path / "out").glob("a.npy.*"))]
    assert np.array_equal(np.concatenate(found), 2 * ROWS)
