"""Loops around accelerate: accumulated, overflowed, resumed, in two processes, as a plain one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import equiwrap as ew

accelerate = pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

from equiwrap.integrations.accelerate import EquivarianceCallback  # noqa: E402

SIGNATURE = "b c h w -> b k"


def forget():
    """Accelerators share what the first one found."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


@pytest.fixture(autouse=True)
def fresh():
    """An Accelerator of its own for every test."""
    forget()
    yield
    forget()


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def points(count=48):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(count, 1, 9, 9, generator=g)
    return x, (x[:, 0, :4].mean((1, 2)) > 0).long() + (x[:, 0, :, :4].mean((1, 2)) > 0).long()


def loader(size=4):
    return DataLoader(TensorDataset(*points()), size)


HOLD = (lambda x, y: (x[:16], y[:16]))(*points())


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


class Training:
    """Two epochs of a loop around an Accelerator; `begin` and `end` are steps of the loader."""

    def __init__(self, options, make=net, kind=torch.optim.AdamW, scaler=None, **asked):
        self.accelerator = accelerate.Accelerator(cpu=True, **asked)
        if scaler is not None:
            self.accelerator.scaler = scaler
        self.plain = make()
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            self.plain, kind(self.plain.parameters(), 1e-2), loader()
        )
        self.callback = None
        if options is not None:
            held = {"holdout": HOLD, "every": 4} | options
            self.callback = EquivarianceCallback(
                self.accelerator, self.model, self.optimizer, "C4", SIGNATURE, **held
            )

    def run(self, begin=0, end=24, bad=(), saved="", seen=lambda: None):
        a, count = self.accelerator, 0
        for _ in range(2):
            for x, y in self.loader:
                count += 1
                if not begin < count <= end:
                    continue
                with a.accumulate(self.model):
                    torch.manual_seed(count)  # of dropout
                    loss = cross_entropy(self.model(x), y)
                    a.backward(loss * (torch.inf if count in bad else 1.0))
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                seen()
                if saved and count == end:
                    a.save_state(saved, safe_serialization=False)
            if self.callback and begin <= count:
                self.callback.after_epoch()
        if self.callback and end == 24:
            self.callback.finish()
        return self

    @property
    def weights(self):
        return {k: v.clone() for k, v in self.plain.state_dict().items()}


def by_hand(options, accumulate=1):
    """The same with the core, and no framework."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    core = ew.EquivarianceCallback(model, "C4", SIGNATURE, **options)
    count = 0
    for _ in range(2):
        for x, y in loader():
            count += 1
            torch.manual_seed(count)
            (cross_entropy(model(x), y) / accumulate).backward()
            if count % accumulate:
                continue
            core.before_step(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            core.after_step()
        core.after_epoch()
    core.finish()
    return model.state_dict(), core


OPTIONS = {
    "decay": {"penalty": 3.0, "steer": True},
    "loss": {"penalty": 3.0, "kind": "loss"},
    "ball": {"penalty": 0.3, "kind": "ball"},
    "snapped": {"penalty": 3.0, "snap": True, "schedule": "linear"},
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_accelerate_trains_what_the_loop_trains_bit_for_bit(name, accumulate):
    options = {"holdout": HOLD, "every": 4, "total": 24 // accumulate} | OPTIONS[name]
    found = Training(options, gradient_accumulation_steps=accumulate).run()
    weights, core = by_hand(options, accumulate)
    assert_equal(weights, found.weights)
    assert found.callback.history == core.history
    assert found.callback.core.steps == 24 // accumulate
    bare = Training(None, gradient_accumulation_steps=accumulate).run()
    assert not torch.equal(bare.weights["0.weight"], weights["0.weight"])


def test_measuring_leaves_no_trace_not_even_of_a_prepared_holdout():
    """Five batches accumulate, and the twelfth ends the epoch: the end of the holdout must not."""
    found = {}
    for measured in (False, True):
        forget()
        training = Training(None, gradient_accumulation_steps=5)
        if measured:
            held = training.accelerator.prepare(loader(8))
            training.callback = EquivarianceCallback(
                training.accelerator,
                training.model,
                training.optimizer,
                "C4",
                SIGNATURE,
                holdout=held,
                every=1,
            )
        training.run()
        found[measured] = training
    assert found[True].callback.core.steps == 6  # 5, 10, and the 12th that ends the epoch, twice
    assert_equal(found[False].weights, found[True].weights)
    assert found[True].callback.history[-1]["equiv/alpha_star"]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["decay", "loss"])
def test_an_overflowed_step_applies_nothing(kind, fused):
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000)
    options = {"penalty": 3.0, "kind": kind, "decay_every": 1, "every": 1}
    made = partial(torch.optim.AdamW, fused=fused)
    training, after = Training(options, kind=made, scaler=scaler), []
    after.append(training.weights["0.weight"])
    training.run(bad=(3, 8), seen=lambda: after.append(training.weights["0.weight"]))
    same = [i for i in range(1, 25) if torch.equal(after[i - 1], after[i])]
    assert same == [3, 8]
    assert training.callback.core.steps == 22
    assert training.callback.history[-1]["step"] == 22


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_losses_are_pulled_as_unscaled_ones_are(fused):
    found = {}
    for scale in (None, 64.0):
        forget()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        training = Training(
            {"penalty": 3.0, "kind": "loss", "every": None},
            kind=partial(torch.optim.SGD, fused=fused),
            scaler=scaler,
        )
        found[scale] = training.run().weights
    for key, value in found[None].items():
        torch.testing.assert_close(found[64.0][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [5, 12, 14])
@pytest.mark.parametrize("name", ["decay", "loss", "ball"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(name, step, tmp_path):
    options = {"total": 24, "schedule": "linear" if name != "ball" else None} | OPTIONS[name]
    whole = Training(options).run()
    forget()
    Training(options).run(end=step, saved=tmp_path)
    plain = torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)
    assert plain["steps"] == step
    forget()
    again = Training(options)
    again.accelerator.load_state(tmp_path)
    again.run(begin=step)
    assert_equal(whole.weights, again.weights)
    assert whole.callback.history == again.callback.history


def test_mixed_precision_is_trained_in_and_not_measured_in():
    """`prepare` puts autocast around forward, which nobody could read weights through."""
    training = Training({"penalty": 30.0, "decay_every": 1}, mixed_precision="bf16")
    assert "forward" in vars(training.model)
    assert len(training.callback.core.pull.targets) > 3
    training.run()
    last = training.callback.history[-1]
    assert last["equiv/ratio"] < 0.05 < training.callback.history[0]["equiv/ratio"]
    assert "forward" in vars(training.model)  # the model stays prepared
    twin = net()
    twin.load_state_dict(training.weights)
    exact = ew.EquivarianceCallback(twin, "C4", SIGNATURE, holdout=HOLD).measure()
    assert last["equiv/error"] == exact["equiv/error"]
    rounded = training.model.eval()(HOLD[0])
    assert (rounded - twin.eval()(HOLD[0])).abs().max() > 1e-4


def test_rows_reach_the_trackers_under_their_names(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = Training(
        {"penalty": 1.0, "layers": True, "every": 5}, log_with="tensorboard", project_dir=tmp_path
    )
    training.accelerator.init_trackers("runs")
    training.run()
    training.accelerator.end_training()
    board = EventAccumulator(str(tmp_path / "runs"))
    board.Reload()
    names = {"equiv/error", "equiv/penalty", "equiv/alpha_star", "equiv/layer/0.weight"}
    assert names <= set(board.Tags()["scalars"])
    assert [e.step for e in board.Scalars("equiv/error")] == [0, 5, 10, 12, 15, 20, 24, 24]


def test_what_is_no_optimiser_and_what_is_no_option_is_said():
    training = Training(None)
    with pytest.raises(TypeError, match="penalti"):
        EquivarianceCallback(training.accelerator, training.model, training.optimizer, penalti=1)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        EquivarianceCallback(training.accelerator, training.model, [nn.Linear(1, 1)], "C4")


SCRIPT = """
    import sys, torch, torch.distributed as dist, torch.multiprocessing as mp, os
    from accelerate import Accelerator
    from torch import nn
    from equiwrap.integrations.accelerate import EquivarianceCallback
    from torch.utils.data import DataLoader, TensorDataset

    def work(rank, world, root):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT="29631",
            ACCELERATE_USE_CPU="true")
        if world == 1:
            for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
                del os.environ[key]
        a = Accelerator(cpu=True)
        assert a.num_processes == world
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
        g = torch.Generator().manual_seed(5)
        x, y = torch.randn(32, 1, 8, 8, generator=g), torch.randint(0, 3, (32,), generator=g)
        data = TensorDataset(x.double(), y)
        rows = []
        model, optimizer, train, val = a.prepare(net, torch.optim.SGD(net.parameters(), 0.1),
            DataLoader(data, 8 // world), DataLoader(data, 16 // world))
        cb = EquivarianceCallback(a, model, optimizer, "C4", "b c h w -> b k", penalty=1.0,
            holdout=val, every=3, steer=0.001, log=lambda row, step: rows.append(step))
        for _ in range(2):
            for x, y in train:
                a.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            cb.after_epoch()
        cb.finish()
        found = [net.state_dict(), cb.history, cb.core.pull.strength, rows]
        torch.save(found, f"{root}/{world}.{rank}.pt")
        if world > 1:
            dist.destroy_process_group()

    if __name__ == "__main__":
        mp.start_processes(work, (2, sys.argv[1]), 2, start_method="fork")
        work(0, 1, sys.argv[1])
"""


def test_two_processes_train_what_one_does(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(file), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, far = (
        torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1.0", "2.0", "2.1")
    )
    assert_equal(two[0], far[0])
    assert two[1:3] == far[1:3]  # rows and λ are the same in both processes
    for key, value in one[0].items():
        torch.testing.assert_close(value, two[0][key], rtol=0, atol=1e-12)
    for row, other in zip(one[1], two[1], strict=True):
        assert row == pytest.approx(other, rel=1e-6), (row, other)
    assert two[3] == [row["step"] for row in two[1]]
    assert far[3] == []  # the first process logs
