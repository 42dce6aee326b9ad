"""Channels matched to data: what was planted is found, and noise is not taken for it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.errors import SignatureError
from equiwrap.graph import matching
from equiwrap.graph.matching import match
from equiwrap.graph.partition import partition
from equiwrap.groups import parse_group
from equiwrap.reynolds import images_of
from equiwrap.signature import Signature

GRID = "b c h w -> b c h w"


def planted(group, fields, seed, noise=0.0, alone=4):
    """Energies of copies of r and channels at rest in a drawn order, and the images planted."""
    draw = torch.Generator().manual_seed(seed)
    table = images_of(parse_group(group))
    order = len(table)
    count = fields * order + alone
    places = torch.randperm(count, generator=draw).tolist()
    images = [list(range(count)) for _ in table]
    for f in range(fields):
        for k, row in enumerate(table):
            for a, b in enumerate(row):
                images[k][places[f * order + a]] = places[f * order + b]
    energy = noise * torch.randn(order, count, count, generator=draw, dtype=torch.float64)
    energy[0] = (energy[0] + energy[0].mT) / 2
    energy[0].fill_diagonal_(0)
    for k, row in enumerate(images):
        energy[k, range(count), row] += 1
    return energy, tuple(map(tuple, images))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.25])
@pytest.mark.parametrize(("group", "fields"), [("C2", 5), ("C4", 4), ("D2", 4), ("D4", 3)])
def test_planted_fields_are_found_in_noise(group, fields, noise):
    for seed in range(3):
        energy, images = planted(group, fields, seed, noise)
        found = partition(energy, parse_group(group))
        assert found.images == images
        assert found.sizes == (len(images),) * fields + (1,) * 4
        assert 0.8 < found.share < 1.2


def test_fields_over_a_subgroup_are_found_as_such():
    """Two channels that a quarter turn exchanges: functions on C4/C2."""
    energy, _ = planted("C4", 2, 0, alone=6)
    alone = [c for c in range(14) if energy[1, c, c] == 1]
    a, b = alone[:2]
    for k in (1, 3):
        energy[k][[a, b]] = energy[k][[b, a]]
    found = partition(energy, parse_group("C4"))
    assert found.sizes == (4, 4, 2, 1, 1, 1, 1)
    assert found.images[1][a] == b
    assert found.images[2][a] == a


def test_every_partition_is_an_action():
    table = images_of(parse_group("D4"))
    energy = torch.rand(8, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images = partition(energy, parse_group("D4")).images
    for g, h in [(1, 2), (3, 5), (4, 4), (6, 1), (7, 3)]:
        both = tuple(images[g][images[h][c]] for c in range(20))
        assert both == images[table[g][h]]
    assert images[0] == tuple(range(20))


def test_shuffled_energies_capture_less_than_planted_ones():
    energy, _ = planted("C4", 5, 3, 0.05)
    kept = partition(energy, parse_group("C4")).share
    noise = partition(matching._shuffled(energy, 0), parse_group("C4")).share
    assert kept > 0.9
    assert noise < 0.7


# -- networks --------------------------------------------------------------------------------------


def network(width=16, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 5, 3, padding=1),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        net[1].running_mean.normal_(0, 0.1)
        net[1].running_var.uniform_(0.5, 1.5)
    return net.eval()


def permuted(net, seed):
    """The same function with the channels of every hidden layer in another order."""
    draw = torch.Generator().manual_seed(seed)
    net, order = copy.deepcopy(net), None
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.BatchNorm2d):
                for t in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    t.copy_(t[order])
            elif isinstance(layer, nn.Conv2d):
                if order is not None:
                    layer.weight.copy_(layer.weight[:, order])
                if layer is not net[-1]:
                    order = torch.randperm(layer.out_channels, generator=draw)
                    layer.weight.copy_(layer.weight[order])
                    layer.bias.copy_(layer.bias[order])
    return net


def planted_network(group, seed=0):
    """Regular fields in every hidden layer, equivariant to rounding, their order forgotten."""
    net, x = network(seed=seed).double(), torch.randn(24, 3, 9, 9, dtype=torch.float64)
    ew.project_(net, group, GRID, hidden="regular", example=x)
    hidden = permuted(net, seed)
    torch.testing.assert_close(hidden(x), net(x))
    return hidden, x


def gap(net, wrapped, x):
    with torch.no_grad():
        return float((wrapped(x) - net(x)).norm() / net(x).norm())


def projected(net, group, x, hidden, **options):
    return ew.equivariantize(
        net, group, GRID, method="project", hidden=hidden, example=x[:2], **options
    )


@pytest.mark.parametrize("group", ["C2", "C4", "D2", "D4"])
def test_a_network_of_regular_fields_in_a_forgotten_order_is_matched_exactly(group):
    net, x = planted_network(group)
    found = projected(net, group, x, "matched", calibrate=x)
    assert gap(net, found, x) < 1e-12
    assert found.equiwrap.errors(x).value < 1e-12
    assert found.equiwrap.label == "EXACT"
    assert gap(net, projected(net, group, x, "regular"), x) > 0.1
    assert gap(net, projected(net, group, x, "trivial"), x) > 0.1
    order = parse_group(group).order
    assert f"{16 // order} × {order}" in str(found.equiwrap.report())


def test_fields_are_found_behind_noise_in_the_weights():
    net, x = planted_network("C4", 1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * p.std() * torch.randn_like(p))
    _, found = match(net, Signature.parse(GRID, parse_group("C4")), x)
    assert found.accepted
    assert [row.sizes for row in found.rows] == [(4,) * 4] * 2
    assert dict(found.distances)["found"] < 0.01 * dict(found.distances)["rest"]
    assert all(row.share > row.null + 0.2 for row in found.rows)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_nothing_is_claimed_of_an_untrained_network(group, seed):
    net, x = network(seed=seed), torch.randn(24, 3, 9, 9)
    hidden, found = match(net, Signature.parse(GRID, parse_group(group)), x)
    assert not found.accepted
    assert not hidden.given
    assert "0 of 2 variables matched" in str(found)
    rested = projected(net, group, x, "matched", calibrate=x)
    plain = projected(net, group, x, "trivial")
    torch.testing.assert_close(rested(x), plain(x))


def test_fields_of_another_network_are_not_accepted(monkeypatch):
    """Teeth: with its energies shuffled, the planted network gives no fields of size four."""
    net, x = planted_network("C4")
    honest = matching.energies_of
    draws = iter(range(100))
    monkeypatch.setattr(
        matching, "energies_of", lambda *a: matching._shuffled(honest(*a), next(draws))
    )
    monkeypatch.setattr(matching, "ROUNDS", 0)
    _, found = match(net, Signature.parse(GRID, parse_group("C4")), x)
    assert not found.accepted


def test_the_inverse_reading_of_the_energies_is_worse(monkeypatch):
    """Teeth: g⁻¹ for g finds no fields of D4 that project to the network."""
    net, x = planted_network("D4")
    honest = matching.energies_of
    monkeypatch.setattr(matching, "ROUNDS", 0)
    signature = Signature.parse(GRID, parse_group("D4"))
    right = dict(match(net, signature, x)[1].distances)["found"]
    turned = [0, 3, 2, 1, 4, 7, 6, 5]
    monkeypatch.setattr(matching, "energies_of", lambda *a: honest(*a)[turned])
    wrong = dict(match(net, signature, x)[1].distances)["found"]
    assert right < 1e-20
    assert wrong > 1e-4


def test_matching_leaves_the_model_alone():
    net, x = planted_network("C4")
    net.train()
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    match(net, Signature.parse(GRID, parse_group("C4")), x)
    assert net.training
    assert net[1].training
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


def test_data_may_be_a_loader_of_inputs_or_of_pairs():
    net, x = planted_network("C4")
    pairs = torch.utils.data.TensorDataset(x, torch.zeros(len(x)))
    loaders = [torch.utils.data.DataLoader(d, batch_size=16) for d in (x, pairs)]
    for data in (x, (x,), *loaders):
        hidden, found = match(net, Signature.parse(GRID, parse_group("C4")), data)
        assert found.accepted
        assert hidden.mode == "matched"


@pytest.mark.parametrize(
    ("shape", "words"),
    [((0, 3, 9, 9), "no inputs"), ((4, 3, 9, 8), "square grid"), ((4, 3, 9), "4 axes")],
)
def test_data_that_do_not_fit_are_refused_with_a_sentence(shape, words):
    with pytest.raises(SignatureError, match=words):
        match(network(), Signature.parse(GRID, parse_group("C4")), torch.randn(shape))
