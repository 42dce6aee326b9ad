"""What a newcomer meets in the first ten minutes."""

from __future__ import annotations

import re

import pytest
import torch

import equiwrap as ew
from equiwrap.errors import GroupError


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))

    def forward(self, x, labels=None):
        out = {"logits": self.net(x)}
        if labels is not None:
            out["loss"] = torch.nn.functional.cross_entropy(out["logits"], labels)
        return out


def test_an_output_that_is_passed_through_may_be_absent():
    signature = "x: b c h w, labels: _ -> {loss: _, logits: b k}"
    model = ew.equivariantize(Classifier(), "C4", signature)
    x, labels = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    assert set(model(x)) == {"logits"}
    assert set(model(x, labels=labels)) == {"loss", "logits"}
    ew.testing.assert_equivariant(model, "C4", x)


def test_sizes_tried_in_vain_leave_no_word(caplog):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten(), torch.nn.Linear(512, 3))
    with caplog.at_level(0, logger="torch._subclasses.fake_tensor"):
        ew.equivariantize(net, "C4")
    assert not caplog.records


@pytest.mark.parametrize(("typed", "meant"), [("c4", "C4"), ("so(3)", "SO(3)"), ("SO3", "SO(3)")])
def test_a_group_in_other_letters_is_guessed(typed, meant):
    with pytest.raises(GroupError, match=re.escape(f"Did you mean {meant!r}")):
        ew.groups.parse_group(typed)


ONE = {
    "conv": (torch.nn.Conv2d(3, 4, 3, padding=1), "b c h w -> b c h w", ["weight"]),
    "back": (torch.nn.ConvTranspose2d(3, 4, 3), "b c h w -> b c h w", ["weight"]),
    "norm": (torch.nn.LayerNorm([8, 8]), "b c h w -> b c h w", ["weight", "bias"]),
    "still": (torch.nn.BatchNorm2d(3), "b c h w -> b c h w", []),
}


@pytest.mark.filterwarnings("ignore::equiwrap.NoEffectWarning")
@pytest.mark.parametrize("name", ONE)
def test_one_layer_of_torch_is_a_model(name):
    net, signature, paths = ONE[name]
    net, x = net.double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    soft = ew.equivariantize(net, "C4", signature, method="penalize", example=x)
    assert [target.path for target in soft.equiwrap.targets] == paths
    hard = ew.equivariantize(net, "C4", signature, method="project", example=x)
    assert hard.equiwrap.label == "EXACT"
    assert float(hard.equiwrap.errors(x)) < 1e-12
    plain = hard.equiwrap.fold()
    assert type(plain) is type(net)
    assert plain.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(plain(x), hard(x))
