"""Many devices: penalties and decays under DDP and FSDP2 are those of one process."""

from __future__ import annotations

import time

import devices_worker as worker
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from devices_worker import CASES, model_of, net, train, whole
from torch import nn
from torch.optim.swa_utils import AveragedModel

import equiwrap as ew
from equiwrap.groups import parse_group
from equiwrap.penalty import energies, penalty, targets_of
from equiwrap.penalty.targets import inner
from equiwrap.representations import Regular, Trivial
from equiwrap.reynolds import (
    Blocks,
    Fields,
    Kernels,
    Orbits,
    Sets,
    Side,
    Steerable,
    Turning,
)

C4 = parse_group("C4")
LIMIT = 240.0  # seconds of a launch


def launch(name, folder, device="cpu", world=2):
    """What each process found."""
    arguments = (name, str(folder), device, world)
    context = mp.start_processes(
        worker.work, arguments, nprocs=world, join=False, start_method="spawn"
    )
    end = time.monotonic() + LIMIT
    while not context.join(timeout=5):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"{name} took more than {LIMIT} s: processes wait for each other")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    return launch("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fsdp2")


@pytest.fixture(scope="module")
def fsdp2(folder):
    return launch("fsdp2", folder)


@pytest.fixture(scope="module")
def alone():
    """One process, the whole batch at once."""
    found = {}
    for hidden in ("trivial", "regular"):
        for case in CASES:
            model = model_of(hidden)
            train(model, case)
            found[hidden, case] = whole(model)
    return found


def gap(one, two):
    """The largest difference of any entry."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
@pytest.mark.parametrize(("hidden", "accumulate"), worker.WAYS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(request, alone, way, case, hidden, accumulate):
    # torch 2.9 clips the gradients of shards to 1e-9 only (plain gradients are exact there)
    limit = 1e-8 if torch.__version__ < "2.13" and case == "loss last" else 1e-12
    for found in request.getfixturevalue(way):
        assert gap(found["trainings"][hidden, case, accumulate], alone[hidden, case]) < limit
    if case not in ("plain", "adam"):
        assert gap(alone[hidden, case], alone[hidden, "plain"]) > 1e-3


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
@pytest.mark.parametrize("method", ["average", "project"])
def test_averages_and_projected_weights_train_as_one(request, way, method):
    model = model_of(method=method)
    before = whole(model)
    train(model, "plain")
    for found in request.getfixturevalue(way):
        assert gap(found["others"][method], whole(model)) < 1e-12
    assert gap(before, whole(model)) > 1e-2


def test_shards_projected_as_if_they_were_whole_do_not_train_as_one(fsdp2):
    model = model_of(targets=r".*(second|norm).*")
    train(model, "decay")
    assert gap(fsdp2[0]["mutant"], whole(model)) > 1e-3


@pytest.mark.parametrize("place", [0, 1])
def test_replicas_of_shards_train_as_one(fsdp2, alone, place):
    for found in fsdp2:
        assert gap(found["meshes"][place], alone["trivial", "lasso"]) < 1e-12


def test_a_decay_made_before_the_sharding_finds_the_new_parameters(fsdp2, alone):
    for found in fsdp2:
        assert gap(found["late"], alone["regular", "decay"]) < 1e-12


def test_an_optimiser_made_before_the_sharding_is_pointed_out_once(fsdp2):
    for found in fsdp2:
        (said,) = found["stale"]
        assert "made after fully_shard" in said


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["trivial", "regular"])
def test_penalties_and_energies_are_those_of_the_whole_weights(fsdp2, hidden):
    model = model_of(hidden)
    for found in fsdp2:
        values = found["values"]
        for metric in ("frobenius", "relative", "lasso"):
            wanted = float(model.equiwrap.penalty(metric).detach())
            assert values[hidden, metric] == pytest.approx(wanted, rel=1e-13)
        for (path, defect, total), e in zip(
            values[hidden, "energies"], energies(model), strict=True
        ):
            assert path == e.path
            assert (defect, total) == pytest.approx((e.defect, e.total), rel=1e-12, abs=1e-25)
    assert fsdp2[0]["values"] == fsdp2[1]["values"]


def test_a_snap_after_a_forward_in_eval_reaches_the_shards(fsdp2):
    model = model_of()
    ew.penalty.snap(model)
    for found in fsdp2:
        gathered, snapped = found["snapped"]
        assert gathered
        assert gap(snapped, whole(model)) < 1e-14


def test_mixed_precision_decays_and_penalises_the_weights_in_float32(fsdp2):
    wanted = float(penalty(model_of(dtype=torch.float32, bare=True)).detach())
    for found in fsdp2:
        bf16 = found["bf16"]
        assert bf16["left"] is torch.bfloat16
        assert bf16["penalties"] == pytest.approx((wanted, wanted), rel=1e-6)
        assert max(bf16["ratios"]) < 1e-12  # of bfloat16 they would be 1e-5


def test_projected_weights_of_a_group_of_their_own_get_a_sentence(fsdp2):
    assert "CaptureError" in fsdp2[0]["nested"]
    assert "one group" in fsdp2[0]["nested"]


def test_second_derivatives_are_right_or_refused(fsdp2):
    model = model_of("trivial")
    weights = [model.first.weight, model.second.weight]
    first = torch.autograd.grad(model.equiwrap.penalty(), weights, create_graph=True)
    wanted = torch.autograd.grad(sum(g.square().sum() for g in first), weights)
    for found in fsdp2:
        grads, said = found["second"]
        if torch.__version__ < "2.13" and grads is None:
            pytest.skip("torch before 2.13 has no second derivatives of shards")
        for one, two in zip(grads, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-14)
        assert "second derivative" in said


def test_one_process_may_hold_nothing_of_a_weight(fsdp2):
    assert [found["shards"]["head.weight"][0] for found in fsdp2] == [1, 0]
    assert [found["shards"]["first.weight"][0] for found in fsdp2] == [8, 8]


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_decay_goes_on_from_a_checkpoint_exactly(fsdp2, alone):
    for found in fsdp2:
        state, _, end = found["resumed"]
        assert state["steps"] == 3
        assert state["waiting"] == 1
        assert gap(end, alone["regular", "every"]) < 1e-12


def test_a_plain_model_in_one_process_reads_the_checkpoint_of_two(fsdp2, folder):
    plain = net()
    held = {"model": plain.state_dict()}
    dcp.load(held, checkpoint_id=folder / "checkpoint", no_dist=True)
    plain.load_state_dict(held["model"])
    assert gap(whole(plain), fsdp2[0]["resumed"][1]) == 0
    assert gap(whole(plain), whole(net())) > 1e-2


# -- wrappers --------------------------------------------------------------------------------------


def test_targets_are_found_inside_of_wrappers(ddp):
    model = model_of()
    for around in (torch.compile(model), AveragedModel(model), nn.DataParallel(model)):
        assert isinstance(inner(around), worker.Net)
        assert [t.path for t in targets_of(around)] == [t.path for t in targets_of(model)]
        assert [e.total for e in energies(around)] == [e.total for e in energies(model)]
    for found in ddp:
        assert found["targets"]
        assert found["energies"] == [(e.path, e.defect, e.total) for e in energies(model)]


def test_a_users_own_module_named_module_is_no_wrapper():
    class DataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    own = DataParallel()
    assert inner(own) is own


def test_what_comes_in_the_wrong_order_is_refused_in_words(ddp, fsdp2):
    assert "wrap before sharding" in fsdp2[0]["refused"]
    assert "fully_shard(model) instead" in ddp[0]["first"]


# -- which shards are alone ------------------------------------------------------------------------

ROWS = Side(4, 1, False)
CUTS = {
    "kernels by outputs": (Kernels(C4, (5, 3, 3, 3)), (5, 3, 3, 3), 0, (2, 0, 3)),
    "kernels by inputs": (Kernels(C4, (5, 3, 3, 3)), (5, 3, 3, 3), 1, (1, 2)),
    "rows of a table": (Orbits(torch.tensor([0, 1, 1, 0]), 6), (3, 2, 4), 0, (2, 1, 0)),
    "invariants": (Fields(C4, Side(5, 1, False), Side(2, 3)), (5, 24), 0, (3, 2, 0)),
    "from images": (Fields(C4, Side(2), ROWS, (3, 3)), (8, 4, 3, 3), 1, (3, 1)),
    "copies in front": (Fields(C4, Side(3, 2), Side(1, 2), (3, 3)), (24, 8, 3, 3), 0, (8, 0, 16)),
    "blocks": (Blocks(C4, ((3, Regular(C4)),), ((2, Regular(C4)),)), (12, 8), 0, (4, 8)),
    "turning": (
        Turning(C4, ((5, Trivial(1)),), ((1, Regular(C4)),), (3, 3)),
        (5, 4, 3, 3),
        0,
        (2, 3),
    ),
    "steerable": (
        Steerable(parse_group("C8"), ((5, Trivial(1)),), ((2, Trivial(1)),), 3),
        (5, 2, 3, 3),
        0,
        (4, 1),
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_slices_that_are_alone_are_projected_as_in_the_whole(name):
    projector, shape, dim, sizes = CUTS[name]
    weight = torch.randn(shape, dtype=torch.float64)
    parts, pieces = projector.cut(dim, sizes), weight.split(sizes, dim)
    wanted = projector(weight)
    assert (wanted - weight).norm() > 0.1
    assert sum(part.rank for part, size in zip(parts, sizes, strict=True) if size) == projector.rank
    for part, piece, whole_piece in zip(parts, pieces, wanted.split(sizes, dim), strict=True):
        if piece.numel():
            held = piece.clone()
            part.lerp_(held, 1.0)
            torch.testing.assert_close(part(piece), whole_piece, rtol=0, atol=1e-14)
            torch.testing.assert_close(held, whole_piece, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("projector", "dim", "sizes"),
    [
        (Kernels(C4, (5, 3, 3, 3)), 2, (2, 1)),
        (Orbits(torch.tensor([0, 1, 1, 0])), 0, (2, 2)),
        (Fields(C4, Side(1, 4), Side(2)), 0, (8, 8)),
        (Fields(C4, Side(2), Side(2), (3, 3)), 2, (1, 2)),
        (Blocks(C4, ((3, Regular(C4)),), ((2, Regular(C4)),)), 0, (6, 6)),
        (Blocks(C4, ((1, Regular(C4)), (4, Trivial(1))), ((4, Trivial(1)),)), 0, (4, 4)),
        (Sets(4, (1, 1, 1), (1, 1, 1)), 0, (2, 2)),
    ],
    ids=["taps", "entries", "group first", "fields' taps", "half a copy", "two kinds", "sets"],
)
def test_slices_that_the_group_mixes_are_gathered(projector, dim, sizes):
    assert projector.cut(dim, sizes) is None


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("world", [1, 2])
def test_shards_on_gpus_train_as_one(alone, world, tmp_path):
    if torch.cuda.device_count() < world:
        pytest.skip(f"needs {world} GPUs")
    for found in launch("nccl", tmp_path, "cuda", world):
        for (hidden, case), state in found.items():
            assert gap(state, alone[hidden, case]) < 1e-10
