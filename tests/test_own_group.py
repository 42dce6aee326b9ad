"""The example of the contributing page, which is the file beside this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_group import AboutZ, AxesAboutZ
from reference import Dense

import equiwrap as ew
from equiwrap.testing import check_frame, check_group, tolerance

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "contributing.md"


def test_the_page_shows_this_file():
    assert (Path(__file__).parent / "own_group.py").read_text() in PAGE.read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_in_one_file_keeps_every_law(dtype):
    check_group(AboutZ())
    x = torch.randn(4, 5, 3, dtype=dtype)
    check_frame(AxesAboutZ(), AboutZ(), x)
    x[1, :, :2] = 0  # on the axis: every rotation leaves the cloud alone
    for pattern, shape in {"b k": (3,), "b n v": (5, 3), "b v": (3,)}.items():
        plain, signature = Dense(5, 3, shape, dtype), f"b n v -> {pattern}"
        before = ew.measure.equivariance_error(plain, AboutZ(), x, signature=signature)
        model = ew.equivariantize(plain, AboutZ(), signature, frame=AxesAboutZ())
        assert float(before) > 0.05
        assert model.equiwrap.errors(x).worst <= tolerance(dtype)
