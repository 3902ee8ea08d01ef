"""Random programs on the executor under ThreadSanitizer, and under AddressSanitizer and UBSan."""

from __future__ import annotations

from pathlib import Path

import pytest
from stress import SANITIZERS, build_stress, has_sanitizer, run_stress


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_random_programs_under_sanitizers(sanitizer: str, tmp_path: Path) -> None:
    if not has_sanitizer(sanitizer, tmp_path):
        pytest.skip(f"g++ here has no {sanitizer} sanitizer")
    result = run_stress(build_stress(sanitizer, tmp_path), seconds=0.5, seed=0)
    assert (result.returncode, result.stderr) == (0, "")
