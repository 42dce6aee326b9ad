"""Lightning trains, the callback pulls and measures: what holds across the trainer's own ways."""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import equiwrap as ew
from equiwrap.errors import SignatureError

pl = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from equiwrap.integrations.lightning import EquivarianceCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]

SIGNATURE = "b c h w -> b k"


def net():
    """Normalisation, and dropout so that every drawn number is seen in the weights."""
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


HOLD = (lambda x, y: (x[:16], y[:16]))(*points())


class Digits(pl.LightningModule):
    """Which batch it sees depends on the step alone, so that a resume inside an epoch is exact."""

    def __init__(self, module=None, optimizer=torch.optim.AdamW, rate=1e-2, stop=None, bad=()):
        super().__init__()
        torch.manual_seed(0)
        self.net = net() if module is None else module
        self.kind, self.rate, self.stop, self.bad = optimizer, rate, stop, bad
        self.scale, self.seen = 1.0, 0

    def loss(self, batch):
        torch.manual_seed(self.seen)  # of dropout
        return cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch, index):
        if self.seen == self.stop:
            raise InterruptedError
        self.seen += 1
        return self.loss(batch) * (torch.inf if self.seen - 1 in self.bad else 1.0)

    def validation_step(self, batch, index):
        self.log("val", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return self.kind(self.parameters(), self.rate)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint["seen"]


class Steady(DataLoader):
    """A loader that goes on in the middle of an epoch."""

    begin = taken = 0

    def __iter__(self):
        begin, self.begin, self.taken = self.begin, 0, 0
        for i, batch in enumerate(super().__iter__()):
            self.taken = i + 1
            if i >= begin:
                yield batch

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.begin = state["taken"] % len(self)


def loader(size=4, count=48):
    return Steady(TensorDataset(*points(count)), size)


def fit(module, *callbacks, val=False, ckpt=None, data=None, size=4, **options):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | options
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=options.pop("num_sanity_val_steps", 0),
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        held = DataLoader(TensorDataset(*points()), 8) if val else None
        trainer.fit(module, data or loader(size), held, ckpt_path=ckpt)
    return trainer


def callback(model="net", group="C4", **more):
    return EquivarianceCallback(model, group, SIGNATURE, **({"every": 4, "holdout": HOLD} | more))


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def plain(count=24, cb=None, accumulate=1, module=None):
    """The same training as a loop, with the core."""
    lit = module or Digits()
    optimizer = lit.configure_optimizers()
    core = ew.EquivarianceCallback(lit.net, "C4", SIGNATURE, **cb) if cb else None
    lit.train()
    batches = [b for _ in range(9) for b in DataLoader(TensorDataset(*points()), 4)]
    for i, batch in enumerate(batches[:count]):
        (lit.training_step(batch, i) / accumulate).backward()
        if (i + 1) % accumulate:
            continue
        if core:
            core.before_step(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        if core:
            core.after_step()
            if (i + 1) % 12 == 0:
                core.after_epoch()
    if core:
        core.finish()
    return lit, core


# -- the same training as the loop's ---------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": 3.0},
        {"penalty": 3.0, "kind": "loss"},
        {"penalty": 0.3, "kind": "ball"},
        {"penalty": 3.0, "schedule": "linear", "steer": 0.02, "every": 0.25},
        {"penalty": 3.0, "snap": True, "layers": True},
    ],
    ids=["decay", "loss", "ball", "steered", "snapped"],
)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_lightning_trains_what_the_loop_trains_bit_for_bit(options, accumulate):
    options = {"holdout": HOLD, "every": 4} | options
    found, cb = Digits(), callback(**options)
    fit(found, cb, accumulate_grad_batches=accumulate)
    wanted, core = plain(cb=options | {"total": 24 // accumulate}, accumulate=accumulate)
    assert_equal(weights(wanted), weights(found))
    assert cb.history == core.history
    assert cb.core.steps == 24 // accumulate
    untouched = Digits()
    fit(untouched, accumulate_grad_batches=accumulate)
    assert not torch.equal(untouched.net[0].weight, found.net[0].weight)


def test_measuring_leaves_no_trace():
    found, bare = Digits(), Digits()
    cb = callback(every=1, layers=True, holdout="val")
    shuffled = DataLoader(TensorDataset(*points()), 4, shuffle=True)
    torch.manual_seed(1)
    fit(found, cb, val=True, data=shuffled)
    torch.manual_seed(1)
    fit(bare, val=True, data=shuffled)
    assert len(cb.history) > 24
    assert_equal(weights(bare), weights(found))


# -- real steps ------------------------------------------------------------------------------------


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler)


@pytest.mark.parametrize("kind", ["decay", "loss"])
def test_an_overflowed_step_applies_nothing(kind):
    after = []

    class Notes(pl.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            after.append(weights(module.net))

    cb = callback(penalty=3.0, kind=kind, decay_every=1, every=1, holdout=HOLD)
    fit(Digits(bad=(3, 7)), cb, Notes(), plugins=scaled(), max_epochs=1)
    for step, (one, other) in enumerate(pairwise(after), 1):
        assert torch.equal(one["0.weight"], other["0.weight"]) == (step in (3, 7)), step
    assert cb.core.steps == 10
    measured = [row["step"] for row in cb.history]
    assert measured == [*range(11), 10, 10]  # the epoch's, and the last


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_losses_are_pulled_as_unscaled_ones_are(fused):
    """At hook time Lightning has unscaled: the penalty weighs the same beside any loss scale."""
    found = {}
    for kind in ("loss", "none"):
        for how in ("32", "16"):
            module = Digits(optimizer=partial(torch.optim.SGD, fused=fused))
            more = {"kind": kind, "penalty": 0.5}
            cbs = [callback(every=None, holdout=None, **more)] if kind == "loss" else []
            extra = {"plugins": scaled()} if how == "16" else {}
            fit(module, *cbs, max_epochs=1, **extra)
            found[kind, how] = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    pulled = {how: found["loss", how] - found["none", how] for how in ("32", "16")}
    assert pulled["32"].norm() > 1e-3
    gap = (pulled["32"] - pulled["16"]).norm() / pulled["32"].norm()
    assert gap < 0.02, gap  # half precision; a forgotten scale of 64 would be 63


def test_bfloat16_and_clipping_and_several_epochs_run_and_pull():
    for extra in ({"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}):
        free, held = Digits(), Digits()
        fit(free, one := callback(), **extra)
        fit(held, cb := callback(penalty=30.0, decay_every=1), **extra)
        assert cb.history[-1]["equiv/error"] < 0.5 * one.history[-1]["equiv/error"]


class Manual(Digits):
    """Two steps a batch, and an optimiser of something else that steps first."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(2, 2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.other.parameters(), 0.1), torch.optim.SGD(
            self.net.parameters(), 0.1
        )

    def training_step(self, batch, index):
        other, mine = self.optimizers()
        self.manual_backward(self.other(torch.ones(2)).sum())
        other.step()
        other.zero_grad()
        for _ in range(2):
            self.seen += 1
            self.manual_backward(self.loss(batch))
            mine.step()
            mine.zero_grad()


@pytest.mark.parametrize("kind", ["decay", "loss"])
def test_manual_optimisation_counts_the_steps_of_the_optimiser_that_trains_the_model(kind):
    module = Manual()
    cb = callback(penalty=3.0, kind=kind, every=6, total=48)
    fit(module, cb)
    assert cb.core.steps == 48
    assert {row["step"] for row in cb.history} >= {0, 6, 12, 18, 24, 48}
    other = Manual()
    fit(other)
    assert_equal(weights(other.other), weights(module.other))
    assert not torch.equal(other.net[0].weight, module.net[0].weight)


# -- the checkpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [5, 12, 14])
@pytest.mark.parametrize(
    "options",
    [
        {"penalty": 3.0, "schedule": "linear", "steer": True},
        {"penalty": 0.3, "kind": "ball"},
        {"penalty": 0.1, "kind": "lasso", "steer": 0.02},
        {"penalty": 3.0, "kind": "loss", "schedule": "cosine"},
    ],
    ids=["decay", "ball", "lasso", "loss"],
)
def test_a_training_that_was_killed_goes_on_bit_for_bit(options, step, tmp_path):
    whole, first = Digits(), callback(**options)
    fit(whole, first)
    cut = Digits(stop=step)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(InterruptedError):
        fit(cut, callback(**options), saver, enable_checkpointing=True)
    path = tmp_path / f"step={step}.ckpt"
    assert list(torch.load(path, weights_only=True)["state_dict"]) == list(whole.state_dict())
    again, second = Digits(), callback(**options)
    fit(again, second, ckpt=path)
    assert_equal(weights(whole), weights(again))
    assert first.history == second.history
    assert first.core.pull.strength == second.core.pull.strength
    blank = Digits()  # teeth: without its state the callback does not go on
    fit(blank, callback("net", "C4", name="new", **options), ckpt=path)
    if options.get("kind") != "ball":  # which keeps nothing from step to step
        assert not torch.equal(whole.net[0].weight, blank.net[0].weight)


def test_two_callbacks_keep_their_states_and_their_curves_apart(tmp_path):
    one, two = callback(penalty=1.0, name="turned"), callback(group="D4", name="flipped")
    logger = CSVLogger(tmp_path)
    trainer = fit(Digits(), one, two, logger=logger)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    held = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
    assert held[one.state_key]["pull"] is not None
    assert held[two.state_key]["pull"] is None
    with open(logger.experiment.metrics_file_path) as file:
        names = set(next(csv.reader(file)))
    assert {"equiv/turned/error", "equiv/flipped/error"} <= names
    with pytest.raises(ValueError, match="give each its name"):
        fit(Digits(), callback(), callback(group="D4"))


def test_fitting_on_goes_on_and_a_new_trainer_begins_anew():
    module, cb = Digits(), callback(penalty=1.0)
    trainer = fit(module, cb)
    trainer.fit_loop.max_epochs = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trainer.fit(module, loader())
    assert cb.core.steps == 36
    assert [r["step"] for r in cb.history][-1] == 36
    assert cb.state_dict()["pull"]["decays"][0]["steps"] == 36  # the schedule went on, too
    fit(Digits(), cb)
    assert cb.core.steps == 24
    assert cb.history[0]["step"] == 0


# -- what is logged --------------------------------------------------------------------------------


def test_rows_reach_every_logger_under_their_names(tmp_path):
    pytest.importorskip("tensorboard")
    logs = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    cb = callback(penalty=1.0, layers=True, every=5)
    trainer = fit(Digits(), cb, logger=logs, log_every_n_steps=1000)
    with open(logs[0].experiment.metrics_file_path) as file:
        rows = [r for r in csv.DictReader(file) if r["equiv/error"]]
    weight_names = {f"equiv/layer/{k}" for k in ("0.weight", "0.bias", "6.weight")}
    assert {"equiv/error", "equiv/penalty", "equiv/alpha_star", *weight_names} <= set(rows[0])
    assert [int(r["step"]) for r in rows] == [0, 5, 10, 12, 15, 20, 24, 24]
    assert [float(r["equiv/error"]) for r in rows] == [r["equiv/error"] for r in cb.history]
    assert set(trainer.callback_metrics) == {"equiv/error", "equiv/strength", "equiv/alpha_star"}
    assert set(trainer.progress_bar_metrics) == set(trainer.callback_metrics)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(logs[1].log_dir)
    board.Reload()
    assert [e.step for e in board.Scalars("equiv/error")] == [0, 5, 10, 12, 15, 20, 24, 24]


def test_other_callbacks_can_monitor_the_error(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="equiv/error", mode="min")
    cb = callback(penalty=3.0, every=None)
    fit(Digits(), cb, saver, enable_checkpointing=True)
    errors = [r["equiv/error"] for r in cb.history[:-1]]
    assert float(saver.best_model_score) == pytest.approx(min(errors))


# -- the trainer's own ways ------------------------------------------------------------------------


def test_averages_are_held_projected():
    averaging = EMAWeightAveraging(decay=0.5)
    module, cb = Digits(), callback(penalty=0.1, ema=True, every=None)
    fit(module, averaging, cb, val=True)
    assert cb.history[-1]["equiv/ratio"] < 1e-12  # what is left at the end is the average
    module, loose = Digits(), callback(penalty=0.1, every=None)
    fit(module, EMAWeightAveraging(decay=0.5), loose)
    assert loose.history[-1]["equiv/ratio"] > 1e-3
    with pytest.raises(ValueError, match="callbacks=\\[averaging, equivariance\\]"):
        fit(Digits(), callback(penalty=0.1, snap=True), EMAWeightAveraging())
    with pytest.raises(ValueError, match="callbacks=\\[averaging, equivariance\\]"):
        fit(Digits(), callback(), pl.callbacks.StochasticWeightAveraging(1e-2))
    with pytest.raises(ValueError, match="the trainer has none"):
        fit(Digits(), callback(penalty=0.1, ema=True))


def test_rehearsals_limits_and_validation_alone_do_what_they_say():
    cb = callback(penalty=1.0, holdout="val", every=2)
    fit(Digits(), cb, val=True, fast_dev_run=2)
    assert [r["step"] for r in cb.history] == [0, 2, 2, 2]
    few, many = callback(holdout="val"), callback(holdout="val")
    fit(Digits(), few, val=True, limit_train_batches=3, limit_val_batches=2, num_sanity_val_steps=1)
    assert few.core.steps == 6
    assert len(list(few.core.watch.holdout)) == 2
    fit(Digits(), many, val=True, check_val_every_n_epoch=2)
    assert len(list(many.core.watch.holdout)) == 6
    alone = callback()
    trainer = pl.Trainer(callbacks=[alone], logger=False, enable_progress_bar=False)
    trainer.validate(Digits(), DataLoader(TensorDataset(*points()), 8), verbose=False)
    assert alone.history == []
    with pytest.raises(RuntimeError, match=r"trainer\.fit"):
        alone.report()


class Hooked(Digits):
    """Batches that only the module's own transfer hooks can read."""

    def on_before_batch_transfer(self, batch, index):
        return batch["x"], batch["y"]

    def on_after_batch_transfer(self, batch, index):
        return 2 * batch[0] + 1, batch[1]


def test_a_validation_loader_is_read_through_the_hooks_of_the_module():
    class Named(TensorDataset):
        def __getitem__(self, index):
            return dict(zip("xy", super().__getitem__(index), strict=True))

    x, y = points()
    data, found = DataLoader(Named(x, y), 16), callback(holdout="val", every=None)
    trainer = pl.Trainer(
        callbacks=[found],
        logger=False,
        max_epochs=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
        precision="64-true",
    )
    trainer.fit(Hooked(), data, data)
    plain = Digits().double()
    plain.net.load_state_dict(trainer.model.net.state_dict())
    pairs = [(2 * x[i : i + 16].double() + 1, y[i : i + 16]) for i in (0, 16, 32)]
    core = ew.EquivarianceCallback(plain.net, "C4", SIGNATURE, holdout=pairs)
    expected = {k: v for k, v in core.after_epoch().items() if k.startswith("equiv/")}
    assert expected == {k: v for k, v in found.history[-1].items() if k.startswith("equiv/")}


def test_the_model_is_found_or_a_sentence_says_what_there_is():
    wrapped = ew.equivariantize(net(), "C4", SIGNATURE, method="penalize", example=HOLD[:1])
    cb = EquivarianceCallback(penalty=1.0, holdout=HOLD, every=None)
    fit(Digits(wrapped), cb)
    assert cb.core.model is wrapped
    module = Digits(wrapped)
    module.twin = ew.equivariantize(net(), "C4", SIGNATURE)
    with pytest.raises(SignatureError, match="there are net, twin"):
        fit(module, EquivarianceCallback(holdout=HOLD))
    with pytest.raises(SignatureError, match="there is none"):
        fit(Digits(), EquivarianceCallback(holdout=HOLD))
    with pytest.raises(SignatureError, match="has net\\."):
        fit(Digits(), callback("nett"))
    with pytest.raises(ValueError, match="no validation batches"):
        fit(Digits(), callback(holdout="val"))
    with pytest.raises(TypeError, match="penalti"):
        callback(penalti=1.0)


# -- two processes ---------------------------------------------------------------------------------

SCRIPT = """
    import sys, warnings, torch
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    import equiwrap as ew
    from equiwrap.integrations.lightning import EquivarianceCallback

    class Lit(pl.LightningModule):
        def __init__(self, way):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
            if way == "fsdp2":  # wrapped before it is sharded
                self.net = ew.equivariantize(self.net, "C4", "b c h w -> b k", method="penalize",
                    hidden="regular", example=torch.randn(2, 1, 8, 8).double())
        def configure_model(self):
            if isinstance(self.trainer.strategy, ModelParallelStrategy):
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        def validation_step(self, batch, index):
            self.net(batch[0])
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def main(devices, root, way):
        g = torch.Generator().manual_seed(5)
        x, y = torch.randn(32, 1, 8, 8, generator=g), torch.randint(0, 3, (32,), generator=g)
        x = x.double()
        data = TensorDataset(x, y)
        cb = EquivarianceCallback("net", "C4", "b c h w -> b k", penalty=1.0, holdout="val",
                                  every=3, steer=0.001, hidden="regular")
        lit = Lit(way)
        ways = {"ddp": "ddp", "fsdp2": ModelParallelStrategy(devices, 1)}
        trainer = pl.Trainer(accelerator="cpu", devices=devices, max_epochs=2, callbacks=[cb],
            strategy=ways[way] if devices > 1 else "auto", logger=CSVLogger(root, f"of{devices}"),
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
        rank = trainer.global_rank  # Lightning's own sampler would shuffle
        order = DistributedSampler(data, devices, rank, shuffle=False)
        train = DataLoader(data, 8 // devices, sampler=order)
        trainer.fit(lit, train, DataLoader(data, 16 // devices))
        whole = {k: v.full_tensor() if hasattr(v, "full_tensor") else v
                 for k, v in lit.state_dict().items()}
        found = [whole, cb.history, cb.core.pull.strength]
        torch.save(found, f"{root}/{devices}.{rank}.pt")
        return trainer

    if __name__ == "__main__":
        two = main(2, *sys.argv[1:])
        if two.global_rank == 0:
            torch.distributed.destroy_process_group()
            main(1, *sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(tmp_path, way):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(file), str(tmp_path), way],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, far = (
        torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1.0", "2.0", "2.1")
    )
    assert_equal(two[0], far[0])
    assert two[1:] == far[1:]  # rows and λ are the same in both processes
    for key, value in one[0].items():
        torch.testing.assert_close(value, two[0][key], rtol=0, atol=1e-12)
    for row, other in zip(one[1], two[1], strict=True):
        assert row == pytest.approx(other, rel=1e-6), (row, other)
    files = list((tmp_path / "of2").rglob("metrics.csv"))
    assert len(files) == 1  # the first process writes
    with files[0].open() as held:
        rows = [r for r in csv.DictReader(held) if r["equiv/error"]]
    assert len(rows) == len(two[1])
