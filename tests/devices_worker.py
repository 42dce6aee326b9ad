"""What each process of `test_devices.py` runs: little trainings, alone, in DDP, in FSDP2."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import equiwrap as ew
from equiwrap.penalty import energies, penalty, snap, targets_of
from equiwrap.penalty.targets import inner
from equiwrap.reynolds import Fields, Side

STEPS, BATCH = 5, 8
HERE = {"device": "cpu", "world": 2}  # of this process

WAYS = [("trivial", 1), ("regular", 1), ("regular", 2)]  # channels, micro-batches

CASES = {  # name → options of the decay, or of the training
    "plain": {},
    "loss": {"loss": "frobenius"},
    "loss last": {"loss": "frobenius", "last": True, "clip": 0.4},
    "relative": {"loss": "relative"},
    "decay": {},
    "adam": {},
    "every": {"every": 2},
    "separate": {"separate": (0.1, 0.9)},
    "lasso": {"kind": "lasso", "strength": 0.5},
    "ball": {"kind": "ball", "strength": 0.3},
}


class Net(nn.Module):
    """Convolutions, one of them tied, a table of positions, statistics, and one output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.third.weight = self.second.weight
        self.place = nn.Parameter(torch.randn(1, 16, 5, 5))
        self.norm = nn.BatchNorm2d(16)
        for held in (self.norm.running_mean, self.norm.bias.data, self.norm.weight.data):
            held.normal_()
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        x = self.first(x).relu() + self.place
        x = self.norm(self.third(self.second(x).relu()))
        return self.head(x.relu().mean((2, 3)))


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return Net().to(HERE["device"], dtype)


def model_of(hidden="regular", method="penalize", dtype=torch.float64, bare=False, **options):
    """The statistics rest (eval), for those of two halves of a batch are not those of the whole."""
    if method != "average":
        options["hidden"] = hidden
    if method == "penalize":
        options["penalty"] = 0.3
    example = torch.randn(1, 2, 5, 5, dtype=dtype, device=HERE["device"])
    inside = net(dtype)
    if bare:
        inside.norm = nn.Identity()
    model = ew.equivariantize(
        inside, "C4", "b c h w -> b k", method=method, example=example, **options
    )
    model.norm.eval()
    return model


def data(dtype=torch.float64):
    draws = torch.Generator().manual_seed(1)
    shape = (STEPS, BATCH, 2, 5, 5)
    x = torch.randn(shape, generator=draws, dtype=torch.float64)
    y = torch.randn((STEPS, BATCH, 1), generator=draws, dtype=torch.float64)
    return x.to(HERE["device"], dtype), y.to(HERE["device"])


def optimizer_of(model, case="decay"):
    if case == "adam":
        return torch.optim.AdamW(model.parameters(), lr=1e-2)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


def decay_of(model, optimizer, case):
    options = {"strength": 0.6} | CASES[case]
    if case == "plain" or "loss" in options:
        return None
    return ew.EquivarianceDecay(model, optimizer, **options)


def parts(x, rank, world, accumulate):
    """The micro-batches of this process."""
    return [half.chunk(world)[rank] for half in x.chunk(accumulate)]


def train(model, case, rank=0, world=1, accumulate=1, steps=range(STEPS), made=None):
    """The same five steps, whoever shares them; `made` is an (optimizer, decay) that goes on."""
    options = CASES[case]
    optimizer, decay = made or (optimizer_of(model, case), None)
    decay = decay or (None if made else decay_of(model, optimizer, case))
    last, inside = options.get("last"), inner(model)

    def extra():
        return penalty(model, strength=0.3, metric=options["loss"]) if "loss" in options else 0.0

    x, y = data(inside.head.weight.dtype)
    for step in steps:
        halves = [parts(t[step], rank, world, accumulate) for t in (x, y)]
        for i, (one, wanted) in enumerate(zip(*halves, strict=True)):
            end = i == accumulate - 1
            if isinstance(model, FSDPModule):
                model.set_requires_gradient_sync(end)
                model.set_reshard_after_backward(end)
            waits = model.no_sync() if hasattr(model, "no_sync") and not end else nullcontext()
            with waits:
                before = 0.0 if last else extra()
                loss = (model(one) - wanted).square().mean() + before + (extra() if last else 0.0)
                (loss / accumulate).backward()
        if "clip" in options:
            clip_grad_norm_(model.parameters(), options["clip"])
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, decay


def whole(model):
    """Parameters and buffers by name, gathered."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return {
        name.removeprefix("module."): (t.full_tensor() if isinstance(t, DTensor) else t)
        .detach()
        .cpu()
        .clone()
        for name, t in held
    }


def sharded(model, mesh=None, **options):
    """Two groups: the second layer of its own, the rest with the root."""
    mesh = mesh or init_device_mesh(HERE["device"], (HERE["world"],))
    for layer in (model.first, model.head):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def ddp_of(model):
    return DistributedDataParallel(model)


# -- what each launch finds ------------------------------------------------------------------------


def trainings(wrap, rank):
    found = {}
    for hidden, accumulate in WAYS:
        for case in CASES:
            model = wrap(model_of(hidden))
            train(model, case, rank, 2, accumulate)
            found[hidden, case, accumulate] = whole(model)
    return found


def others(wrap, rank):
    """Averages and projected weights: outputs of the whole batch, and five steps."""
    found = {}
    for method in ("average", "project"):
        model = model_of(method=method)
        if method == "project" and wrap is sharded:
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        else:
            model = wrap(model)
        train(model, "plain", rank, 2)
        found[method] = whole(model)
    return found


def ddp(rank, folder):
    model = ddp_of(model_of())
    decay = ew.EquivarianceDecay(model, optimizer_of(model), 0.5)
    return {
        "trainings": trainings(ddp_of, rank),
        "others": others(ddp_of, rank),
        "targets": [t.path for t in targets_of(model)] == [t.path for t in decay.targets],
        "energies": [(e.path, e.defect, e.total) for e in energies(model)],
        "first": _first(),
    }


def _first():
    """What is said of FSDP's first generation."""
    try:
        targets_of(FullyShardedDataParallel(model_of(), device_id=torch.device("cpu")))
    except ew.CaptureError as error:
        return str(error)


def fsdp2(rank, folder):
    return {
        "trainings": trainings(sharded, rank),
        "others": others(sharded, rank),
        "mutant": _mutant(rank),
        "values": _values(),
        "snapped": _snapped(),
        "late": _late(rank),
        "stale": _stale(rank),
        "resumed": _resumed(rank, folder),
        "meshes": [_on(shape, rank) for shape in ((1, 2), (2, 1))],
        "bf16": _bf16(rank),
        "nested": _nested(),
        "second": _second(),
        "shards": _shards(),
        "refused": _refused(),
    }


def _mutant(rank):
    """Shards of regular channels, projected as if each were a whole weight of fewer copies."""
    true = Fields.cut

    def wrong(self, dim, sizes):
        order = len(self.images)
        if any(s % order for s in sizes):
            return true(self, dim, sizes)
        parts = [Side(1, s // order) if self.out.moved else Side(s, 1, False) for s in sizes]
        return [replace(self, out=part) for part in parts]

    Fields.cut = wrong
    try:
        from equiwrap.penalty import shards

        shards._cut.cache_clear()
        net = model_of(targets=r".*(second|norm).*")
        model = sharded(net)
        train(model, "decay", rank, 2)
        return whole(model)
    finally:
        Fields.cut = true
        shards._cut.cache_clear()


def _values():
    """The penalty and the energies, of each metric and kind of channels."""
    found = {}
    for hidden in ("trivial", "regular"):
        model = sharded(model_of(hidden))
        for metric in ("frobenius", "relative", "lasso"):
            found[hidden, metric] = float(model.equiwrap.penalty(metric).detach())
        found[hidden, "energies"] = [(e.path, e.defect, e.total) for e in energies(model)]
    return found


def _snapped():
    """After a forward in eval, which leaves the root gathered."""
    model = sharded(model_of())
    with torch.no_grad():
        model.eval()(torch.randn(2, 2, 5, 5, dtype=torch.float64))
    left = not isinstance(model.place, DTensor)
    snap(model)
    return left, whole(model)


def _late(rank):
    """The decay is built first; then the weights are sharded and exchanged in the optimiser."""
    model = model_of()
    optimizer = optimizer_of(model)
    decay = decay_of(model, optimizer, "decay")
    names = {id(p): name for name, p in model.named_parameters()}
    order = [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups]
    sharded(model)
    now = dict(model.named_parameters())
    for group, paths in zip(optimizer.param_groups, order, strict=True):
        group["params"] = [now[path] for path in paths]
    train(model, "decay", rank, 2, made=(optimizer, decay))
    return whole(model)


def _stale(rank):
    """An optimiser that was made before: what the decay says."""
    model = model_of()
    optimizer = optimizer_of(model)
    ew.EquivarianceDecay(model, optimizer, 0.5)
    sharded(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.step()
        optimizer.step()
    return [str(w.message) for w in said if w.category is ew.NoEffectWarning]


def _resumed(rank, folder):
    """Three steps, a checkpoint on disk, another model that reads it, two steps more."""
    model = sharded(model_of())
    optimizer, decay = train(model, "every", rank, 2, steps=range(3))
    state = copy.deepcopy(decay.state_dict()), optimizer.state_dict()
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder)
    twin = sharded(model_of())
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    held = {"model": get_model_state_dict(twin)}
    dcp.load(held, checkpoint_id=folder)
    twin.load_state_dict(held["model"])
    made = optimizer_of(twin)
    made.load_state_dict(state[1])
    goes_on = decay_of(twin, made, "every")
    goes_on.load_state_dict(state[0])
    at_save = whole(twin)
    train(twin, "every", rank, 2, steps=range(3, STEPS), made=(made, goes_on))
    return state[0], at_save, whole(twin)


def _on(shape, rank):
    """Replicas of shards, or shards of replicas."""
    model = sharded(model_of("trivial"), init_device_mesh("cpu", shape, mesh_dim_names=("r", "s")))
    train(model, "lasso", rank, 2)
    return whole(model)


def _bf16(rank):
    """|R|/|W| after a hard decay of weights that a forward reads in bfloat16; penalties."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = sharded(model_of(dtype=torch.float32, bare=True), mp_policy=policy)
    first = float(penalty(model).detach())
    model(torch.randn(2, 2, 5, 5))
    left = model.place.dtype
    again = float(penalty(model).detach())
    optimizer = optimizer_of(model)
    ew.EquivarianceDecay(model, optimizer, 1e3)
    train(model, "plain", rank, 2, made=(optimizer, None))
    return {
        "ratios": [e.ratio for e in energies(model)],
        "left": left,
        "penalties": (first, again),
    }


def _nested():
    """Projected weights of a layer that is a group of its own."""
    model = sharded(model_of(method="project"))
    try:
        model(torch.randn(2, 2, 5, 5, dtype=torch.float64))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _second():
    """A second derivative, where it is right and where it is refused."""
    model = sharded(model_of("trivial"))
    found = []
    for metric in ("frobenius", "relative"):
        value = model.equiwrap.penalty(metric)
        weights = [model.first.weight, model.second.weight]
        try:
            first = torch.autograd.grad(value, weights, create_graph=True)
            square = sum(g.to_local().square().sum() for g in first)
            grads = torch.autograd.grad(square, weights)
            found.append([g.full_tensor() for g in grads])
        except ew.CaptureError as error:
            found.append(str(error))
        except RuntimeError:  # torch 2.9 has no double backward through DTensor
            found.append(None)
    return found


def _shards():
    """Shapes of the local shards: one process has none of the outputs of the last layer."""
    model = sharded(model_of())
    return {name: tuple(p.to_local().shape) for name, p in model.named_parameters()}


def _refused():
    """What `equivariantize` says of a module that is sharded already."""
    try:
        ew.equivariantize(fully_shard(net(), mesh=init_device_mesh("cpu", (2,))), "C4")
    except ew.CaptureError as error:
        return str(error)


def nccl(rank, folder):
    """On GPUs, as many as there are."""
    found = {}
    for hidden in ("trivial", "regular"):
        for case in ("loss last", "decay", "ball"):
            model = sharded(model_of(hidden))
            train(model, case, rank, HERE["world"])
            found[hidden, case] = whole(model)
    return found


def work(rank, name, folder, device="cpu", world=2):
    """One process of a launch; what it found goes to a file."""
    torch.set_num_threads(1)
    HERE.update(device=device, world=world)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend, store = ("nccl" if device == "cuda" else "gloo"), f"file://{folder}/store"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=world)
    found = globals()[name](rank, Path(folder) / "checkpoint")
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
