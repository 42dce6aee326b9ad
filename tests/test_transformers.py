"""The callback under transformers' Trainer: the core's steps, exact resumes, rows for loggers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import equiwrap as ew
from equiwrap.penalty import energies

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402  # noqa: E402
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from equiwrap.integrations.transformers import EquivarianceCallback  # noqa: E402

SIGNATURE = "pixel_values: b c h w -> {logits: b k}"
transformers.utils.logging.set_verbosity_error()


def vit(dropout: float = 0.1, blocks: int = 1) -> ViTForImageClassification:
    torch.manual_seed(3)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=blocks,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_channels=1,
            num_labels=4,
            hidden_dropout_prob=dropout,
        )
    )
    # transformers 5.23 saves a ViT under its names of old and resumes by those of today, so that
    # attention starts from scratch, with any callback or none (huggingface/transformers#43701)
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    return model


def images(n: int = 24):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n, 1, 8, 8, generator=draw)
    return x, torch.randint(4, (n,), generator=draw)


DATA = [{"pixel_values": x, "labels": y} for x, y in zip(*images(), strict=True)]


def arguments(folder: Path, **given) -> TrainingArguments:
    """Six steps an epoch, two epochs."""
    return TrainingArguments(**{
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        **given,
    })


class Dies(TrainerCallback):
    """Kills the training at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Listener(TrainerCallback):
    """What a callback in its place is given to log: (step, values)."""

    def __init__(self):
        self.heard = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.heard.append((state.global_step, dict(logs)))

    def of(self, name):
        return [(step, row[name]) for step, row in self.heard if name in row]


def trainer_of(model, folder, *callbacks, **given) -> Trainer:
    return Trainer(
        model=model,
        args=arguments(folder, **given),
        train_dataset=DATA,
        callbacks=list(callbacks),
    )


def pulled(trainer, **options) -> EquivarianceCallback:
    """The callback of a trainer, among its others."""
    found = EquivarianceCallback(
        trainer, "C4", SIGNATURE, **{"penalty": 100.0, "holdout": images(8), "every": 4, **options}
    )
    trainer.add_callback(found)
    return found


def same(a, b) -> None:
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=0, msg=name)


def ratio(model) -> float:
    """Σ|R|² / Σ|W|² of the weights, whatever was done to the model."""
    plain, x = vit(), images(2)[0]
    plain.load_state_dict(model.state_dict())
    found = energies(ew.equivariantize(plain, "C4", SIGNATURE, method="penalize", example=x))
    return sum(e.defect for e in found) / sum(e.total for e in found)


# -- the steps -------------------------------------------------------------------------------------


def test_the_decay_acts_and_without_it_nothing_does(tmp_path):
    plain, soft = vit(), vit()
    before = ratio(plain)
    trainer_of(plain, tmp_path).train()
    trainer = trainer_of(soft, tmp_path)
    callback = pulled(trainer)
    trainer.train()
    assert ratio(plain) > 0.5 * before
    assert ratio(soft) < 0.02 * before
    assert callback.history[-1]["equiv/ratio"] == pytest.approx(ratio(soft), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "penalty", "clip"),
    [
        ("decay", 1.0, 0.0),
        ("ball", 0.1, 0.05),
        ("lasso", 0.1, 0.0),
        ("loss", 0.5, 0.0),
        ("loss", 0.5, 0.05),
    ],
)
def test_the_trainer_takes_the_steps_of_a_loop_by_hand(tmp_path, kind, penalty, clip):
    auto, hand = vit(0.0), vit(0.0)
    options = {"penalty": penalty, "kind": kind, "decay_every": 3, "holdout": images(8)}
    given = {"max_grad_norm": clip, "train_sampling_strategy": "sequential", "optim": "sgd"}
    trainer = trainer_of(auto, tmp_path, learning_rate=0.2, **given)
    trainer.add_callback(EquivarianceCallback(trainer, "C4", SIGNATURE, **options))
    trainer.train()
    core = ew.EquivarianceCallback(hand, "C4", SIGNATURE, total=12, **options)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.2)
    hand.train()
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.2 * (12 - step) / 12
        x, y = (part[4 * (step % 6) : 4 * (step % 6) + 4] for part in images())
        optimizer.zero_grad()
        hand(pixel_values=x, labels=y).loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(hand.parameters(), clip)
        core.before_step(optimizer)
        optimizer.step()
        core.after_step()
    core.finish()
    for a, b in zip(auto.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert ratio(auto) < 0.8 * ratio(vit())
    assert ratio(auto) == pytest.approx(ratio(hand), rel=1e-3)


def test_accumulated_batches_are_one_step(tmp_path):
    trainer = trainer_of(vit(), tmp_path, gradient_accumulation_steps=3)
    callback = pulled(trainer, every=1)
    trainer.train()
    assert callback.core.steps == trainer.state.global_step == 4
    assert [r["step"] for r in callback.history[:3]] == [0, 1, 2]


def test_a_step_that_the_scaler_skips_is_none(tmp_path):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)  # the state that an AcceleratedOptimizer reads
    model = vit(0.0)
    options = {"penalty": 20.0, "decay_every": 1, "holdout": images(2), "every": None}
    callback = EquivarianceCallback(model, "C4", SIGNATURE, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer = AcceleratedOptimizer(sgd, scaler=scaler)
    state = transformers.TrainerState(max_steps=2)
    event = {"args": None, "state": state, "control": transformers.TrainerControl()}
    callback.on_train_begin(**event, model=model, optimizer=optimizer)
    x, y = images(4)
    sizes = []
    for broken in (True, False):
        scaler.scale(model(pixel_values=x, labels=y).loss).backward()
        if broken:
            model.classifier.weight.grad[0, 0] = torch.inf
        scaler.unscale_(sgd)
        callback.on_pre_optimizer_step(**event, optimizer=optimizer)
        optimizer.step()
        assert optimizer.step_was_skipped == broken
        callback.on_step_end(**event)
        sgd.zero_grad()
        sizes.append((callback.core.steps, ratio(model)))
    assert sizes[0] == (0, pytest.approx(ratio(vit(0.0)), rel=1e-6))
    assert sizes[1][0] == 1
    assert sizes[1][1] < 0.9 * sizes[0][1]


@pytest.mark.parametrize("penalty", [None, 0.0])
def test_measuring_changes_no_bit_of_a_training(tmp_path, penalty):
    alone, watched = vit(), vit()
    trainer_of(alone, tmp_path).train()
    trainer = trainer_of(watched, tmp_path)
    callback = pulled(trainer, penalty=penalty, every=1, holdout=images(8))
    trainer.train()
    same(alone, watched)
    assert len(callback.history) == 1 + 12 + 2 + 1


@pytest.mark.parametrize(
    "given", [{"bf16": True}, {"gradient_checkpointing": True}, {"optim": "sgd"}], ids=str
)
def test_the_flags_of_the_trainer(tmp_path, given):
    model = vit()
    before = ratio(model)
    trainer = trainer_of(model, tmp_path, **given)
    callback = pulled(trainer)
    trainer.train()
    assert ratio(model) < 0.1 * before
    assert callback.history[-1]["equiv/error"] < callback.history[0]["equiv/error"]


# -- resumes ---------------------------------------------------------------------------------------

KINDS = [
    {"kind": "decay", "decay_every": 5, "schedule": "linear"},
    {"kind": "ball", "penalty": 0.1},
    {"steer": True, "schedule": ("cosine", 0.5)},
    {"kind": "loss", "penalty": 0.1, "steer": 0.01, "every": 2},
]


@pytest.mark.parametrize(
    ("options", "restore"), [*((kind, False) for kind in KINDS), (KINDS[0], True), (KINDS[2], True)]
)
def test_a_killed_training_goes_on_bit_for_bit(tmp_path, options, restore):
    given = {"save_strategy": "steps", "save_steps": 1}
    whole = vit()
    trainer = trainer_of(whole, tmp_path / "whole")
    through = pulled(trainer, **options)
    trainer.train()
    first = trainer_of(vit(), tmp_path / "killed", Dies(8), **given)
    pulled(first, **options)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    for step in (5, 6, 8)[: 3 - restore]:
        model = vit()
        trainer = trainer_of(model, tmp_path / "killed")
        trainer.args.restore_callback_states_from_checkpoint = restore
        callback = pulled(trainer, **options)
        trainer.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))
        same(whole, model)
        assert callback.core.pull.strength == through.core.pull.strength
        assert callback.history == through.history
        logged = [row for row in trainer.state.log_history if "equiv/error" in row]
        assert [row["step"] for row in logged] == [int(r["step"]) for r in through.history]


def test_a_resume_without_the_state_is_another_training(tmp_path):
    """The teeth of the law above: pending decays and λ are what goes on."""
    given = {"save_strategy": "steps", "save_steps": 1}
    whole, lost = vit(), vit()
    trainer = trainer_of(whole, tmp_path, **given)
    pulled(trainer, **KINDS[0])
    trainer.train()
    place = tmp_path / "checkpoint-7" / "trainer_state.json"
    held = json.loads(place.read_text())
    del held["stateful_callbacks"]["EquivarianceCallback"]
    place.write_text(json.dumps(held))
    trainer = trainer_of(lost, tmp_path, **given)
    pulled(trainer, **KINDS[0])
    trainer.train(resume_from_checkpoint=str(place.parent))
    with pytest.raises(AssertionError):
        same(whole, lost)


def test_an_interrupted_trainer_goes_on_in_the_same_process(tmp_path):
    given = {"save_strategy": "steps", "save_steps": 3}
    whole, model = vit(), vit()
    trainer = trainer_of(whole, tmp_path / "a")
    pulled(trainer, decay_every=5)
    trainer.train()
    for again in ("the same trainer", "a new one"):
        model = vit()
        trainer = trainer_of(model, tmp_path / again, dies := Dies(7), **given)
        callback = pulled(trainer, decay_every=5)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        dies.step = None
        if again == "a new one":
            trainer = trainer_of(model, tmp_path / again, **given)
            callback.trainer = trainer
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=True)
        same(whole, model)


@pytest.mark.parametrize("restore", [False, True], ids=["", "restore"])
def test_two_callbacks_keep_their_states_apart(tmp_path, restore):
    def two(trainer):
        return [
            pulled(trainer, name="turns", decay_every=5),
            pulled(trainer, name="small", kind="ball", penalty=0.3, every=3),
        ]

    given = {"save_strategy": "steps", "save_steps": 2}
    whole = vit()
    trainer = trainer_of(whole, tmp_path, **given)
    through = two(trainer)
    trainer.train()
    names = {name for row in trainer.state.log_history for name in row}
    assert {"equiv/turns/error", "equiv/small/error"} <= names
    held = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())
    assert len(held["stateful_callbacks"]["EquivarianceCallback"]) <= 4
    model = vit()
    trainer = trainer_of(model, tmp_path, **given)
    trainer.args.restore_callback_states_from_checkpoint = restore
    again = two(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    same(whole, model)
    assert [c.history for c in again] == [c.history for c in through]


def test_a_checkpoint_from_before_the_callback_is_resumed_and_saved(tmp_path):
    given = {"save_strategy": "steps", "save_steps": 3}
    trainer_of(vit(), tmp_path, **given).train()
    model = vit()
    trainer = trainer_of(model, tmp_path, **given)
    pulled(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    held = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert held["stateful_callbacks"]["EquivarianceCallback"]["attributes"]["saved"]["steps"] == 9
    assert ratio(model) < 0.1


def test_the_checkpoint_is_json_and_loads_without_equiwrap(tmp_path):
    model = vit()
    trainer = trainer_of(model, tmp_path, save_strategy="steps", save_steps=6)
    callback = pulled(trainer)
    callback.history.append({"step": 0, "epoch": 0, "equiv/alpha_star": float("nan")})
    callback.history.append({"step": 0, "epoch": 0, "equiv/error": float("inf")})
    trainer.train()
    text = (tmp_path / "checkpoint-6" / "trainer_state.json").read_text()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    held = json.loads(text, parse_constant=refuse)["stateful_callbacks"]["EquivarianceCallback"]
    assert held["attributes"]["saved"]["history"][0]["equiv/alpha_star"] == "nan"
    plain = ViTForImageClassification.from_pretrained(tmp_path / "checkpoint-12")
    assert plain.state_dict().keys() == vit().state_dict().keys()
    again = trainer_of(vit(), tmp_path)
    restored = pulled(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert restored.history[0]["equiv/alpha_star"] != restored.history[0]["equiv/alpha_star"]
    assert restored.history[1]["equiv/error"] == float("inf")


# -- logs ------------------------------------------------------------------------------------------


def test_rows_reach_every_logger_when_they_are_measured(tmp_path):
    early, late = Listener(), Listener()
    trainer = trainer_of(vit(), tmp_path, early, logging_strategy="steps", logging_steps=5)
    callback = pulled(trainer, layers=True)
    trainer.add_callback(late)
    trainer.train()
    steps = [0, 4, 6, 8, 12, 12, 12]
    for heard in (early, late):
        assert [step for step, _ in heard.of("equiv/error")] == steps
        assert [step for step, _ in heard.of("loss")] == [5, 10]
    rows = [row for row in trainer.state.log_history if "equiv/error" in row]
    assert [row["equiv/error"] for row in rows] == [r["equiv/error"] for r in callback.history]
    assert [row["step"] for row in rows] == steps
    expected = {"error", "error_half_width", "penalty", "ratio", "strength"}
    expected |= {"alpha_star", "alpha_star_low", "alpha_star_high", "data_error"}
    expected |= {f"layer/{e.path}" for e in energies(callback.core.pull.model)}
    assert {f"equiv/{name}" for name in expected} == {n for r in rows for n in r} - {
        "epoch",
        "step",
    }


def test_a_callback_that_does_not_know_the_trainer_writes_the_history(tmp_path):
    early, late = Listener(), Listener()
    model = vit()
    callback = EquivarianceCallback(model, "C4", SIGNATURE, holdout=images(8), every=4)
    given = {"logging_strategy": "steps", "logging_steps": 5}
    trainer = trainer_of(model, tmp_path, early, callback, late, **given)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "equiv/error" in row]
    assert [row["step"] for row in rows] == [0, 4, 6, 8, 12, 12, 12]
    assert not early.of("equiv/error")
    assert [step for step, _ in late.of("equiv/error")] == [5, 10, 12]
    assert [step for step, _ in early.of("loss")] == [5, 10]


def test_tensorboard_and_the_progress_bar_see_the_rows(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = trainer_of(vit(), tmp_path, report_to="tensorboard", disable_tqdm=False)
    callback = pulled(trainer)
    trainer.train()
    found = EventAccumulator(str(tmp_path / "logs"))
    found.Reload()
    events = found.Scalars("train/equiv/error")
    assert {e.step for e in events} == {0, 4, 6, 8, 12}
    assert events[0].value == pytest.approx(callback.history[0]["equiv/error"], rel=1e-6)
    assert len(list((tmp_path / "logs").glob("events*"))) == 1
    assert "'equiv/error'" in capsys.readouterr().out + capsys.readouterr().err


@pytest.mark.slow  # its service takes seconds to start
def test_wandb_offline_sees_the_rows(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer = trainer_of(vit(), tmp_path, report_to="wandb")
    callback = pulled(trainer)
    trainer.train()
    last = wandb.run.summary["train/equiv/error"]
    wandb.finish()
    assert last == pytest.approx(callback.history[-1]["equiv/error"])


# -- which model -----------------------------------------------------------------------------------


def test_without_a_model_it_is_that_of_the_trainer_even_a_new_one(tmp_path):
    callback = EquivarianceCallback(
        None, "C4", SIGNATURE, penalty=100.0, holdout=images(8), every=None
    )
    trainer = Trainer(
        model_init=lambda: vit(), args=arguments(tmp_path), train_dataset=DATA, callbacks=[callback]
    )
    trainer.train()
    assert callback.core.model is trainer.model
    assert ratio(trainer.model) < 0.02
    first = callback.core
    trainer.train()
    assert callback.core.model is trainer.model
    assert callback.core is not first


def test_another_model_and_unknown_options_are_refused(tmp_path):
    callback = EquivarianceCallback(vit(), "C4", SIGNATURE, holdout=images(2))
    with pytest.raises(ValueError, match="give the callback the Trainer itself"):
        trainer_of(vit(), tmp_path, callback)
    with pytest.raises(TypeError, match="strength"):
        EquivarianceCallback(None, "C4", strength=1.0)


@pytest.mark.parametrize("given", ["the trainer", "the model", "nothing"])
def test_a_penalised_model_keeps_its_columns_labels_and_files(tmp_path, given):
    model = ew.equivariantize(vit(), "C4", SIGNATURE, method="penalize", example=images(2)[0])
    before = ratio(ew.unwrap(model))
    data = [{**row, "name": "dropped"} for row in DATA]
    trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=data)
    assert trainer.label_names == ["labels"]
    about = {"the trainer": trainer, "the model": model, "nothing": None}[given]
    trainer.add_callback(EquivarianceCallback(about, penalty=100.0, holdout=images(8)))
    trainer.train()
    assert ratio(ew.unwrap(model)) < 0.02 * before
    trainer.save_model(tmp_path / "last")
    config = json.loads((tmp_path / "last" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    plain = ViTForImageClassification.from_pretrained(tmp_path / "last").eval()
    x = images(3)[0]
    torch.testing.assert_close(plain(x).logits, model.eval()(x).logits, rtol=0, atol=0)


def test_an_averaged_model_trains_on_its_logits_and_stays_exact(tmp_path):
    model = ew.equivariantize(vit(), "C4", SIGNATURE, frame="whole")
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, label_names=["labels"]),
        train_dataset=DATA,
        compute_loss_func=lambda out, labels, **_: cross_entropy(out.logits, labels),
    )
    trainer.model_accepts_loss_kwargs = False
    callback = EquivarianceCallback(trainer, holdout=images(8), every=4)
    trainer.add_callback(callback)
    before = [p.clone() for p in model.parameters()]
    trainer.train()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert max(row["equiv/error"] for row in callback.history) < 1e-5


def test_the_snap_comes_with_the_end(tmp_path):
    model = vit()
    trainer = trainer_of(model, tmp_path)
    callback = pulled(trainer, snap=True, penalty=0.5)
    trainer.train()
    assert ratio(model) < 1e-10
    assert callback.history[-1]["equiv/error"] < 1e-5 < callback.history[-2]["equiv/error"]
    assert str(callback.report()).startswith("ViTForImageClassification under C4: 12 steps")
