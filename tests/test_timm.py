"""Ten families of timm under C4 and D4: exact, and otherwise untouched. The rest is a recipe's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")

PATH = Path(__file__).parents[1] / "recipes" / "survey_timm.py"
MODELS = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
MODELS += ["test_maxvit", "mobilenetv3_small_050", "regnetx_002", "resmlp_12_224", "mobilevit_xxs"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models on a busy machine: threads that wait for each other cost ten times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def survey():
    spec = importlib.util.spec_from_file_location("survey_timm", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["survey_timm"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["survey_timm"]


@pytest.mark.parametrize("name", MODELS)
def test_a_family_breaks_the_law_before_and_obeys_it_after(survey, name):
    row = survey.check(name)
    assert row.plain > 1e-3, "the plain model must fail, or the test proves nothing"
    assert row.failed == []
    assert row.notes == []
    assert max(row.single.values()) <= 1e-5
    assert len(row.single) == 4
    assert row.double <= 1e-10


def test_the_ten_are_ten_families(survey):
    assert len({survey.family_of(name) for name in MODELS}) == 10


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_the_survey_rejects_a_mean_over_too_few_elements(survey, group):
    """Teeth: an average over C2, and over the turns of D4 without its flips, is seen."""
    import equiwrap as ew

    net, size = survey.build("test_vit")
    x = torch.randn(2, 3, size, size)
    small = ew.equivariantize(net, {"C4": "C2", "D4": "C4"}[group], survey.SIGNATURE, frame="whole")
    assert survey.error(small, x, group) > 1e-3
