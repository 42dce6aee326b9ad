"""timm's registry, tasks, optimisers and scripts meet equivariant models, and notice nothing."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.penalty import energies

timm = pytest.importorskip("timm")

from timm.data import resolve_data_config  # noqa: E402
from timm.models import load_checkpoint, safe_model_name  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.task import ClassificationTask, LogitDistillationTask  # noqa: E402
from timm.utils import ModelEmaV3, NativeScaler  # noqa: E402
from torch.optim import optimizer as torch_optimizer  # noqa: E402

import equiwrap.integrations.timm as doors  # noqa: E402
from equiwrap.integrations import timm_models  # noqa: E402

FAMILIES = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"img_size": 32},
    "convnext_atto": {},
}
SOFT = {"group": "C4", "method": "penalize", "example": 33, "num_classes": 3}


def turned(x):
    return x.rot90(1, (-2, -1))


def change(model, x):
    """The largest change of the output under a quarter turn, relative to the output."""
    with torch.no_grad():
        y = model(x)
        return float((model(turned(x)) - y).abs().max() / y.abs().max())


def defect(model):
    """Σ |R|² over the parameters: running statistics move by themselves."""
    names = dict(model.named_parameters())
    return sum(e.defect for e in energies(model) if e.path in names)


@pytest.fixture(autouse=True)
def nobody_waits():
    torch.manual_seed(0)
    yield
    timm_models._waiting.clear()
    while timm_models._hooks:
        timm_models._hooks.pop().remove()


# -- the registry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_registered_model_is_exact_and_is_the_plain_one_otherwise(name, tmp_path):
    plain = timm.create_model(name, num_classes=7, **FAMILIES[name]).eval()
    x = torch.randn(2, 3, 32, 32)
    assert change(plain, x) > 1e-3
    model = timm.create_model(f"equi_{name}", group="C4", num_classes=7, **FAMILIES[name]).eval()
    assert isinstance(model, type(plain))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict(), strict=True)
    assert change(model, x) < 1e-5
    torch.testing.assert_close(ew.unwrap(model)(x), plain(x))
    assert model.pretrained_cfg == plain.pretrained_cfg
    assert model.default_cfg is model.pretrained_cfg
    assert resolve_data_config({}, model=model) == resolve_data_config({}, model=plain)
    assert model._model_args == plain._model_args  # rebuilt elsewhere, it is a plain timm model
    assert getattr(model, "no_weight_decay", set)() == getattr(plain, "no_weight_decay", set)()
    torch.testing.assert_close(model.forward_features(x), plain.forward_features(x))
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), plain(x))

    torch.save({"state_dict": model.state_dict()}, tmp_path / "m.pth")
    twin = timm.create_model(
        f"equi_{name}", num_classes=7, checkpoint_path=tmp_path / "m.pth", **FAMILIES[name]
    ).eval()
    torch.testing.assert_close(twin(x), model(x))
    fresh = timm.create_model(name, num_classes=7, **FAMILIES[name]).eval()
    load_checkpoint(fresh, tmp_path / "m.pth", strict=True)
    torch.testing.assert_close(fresh(x), plain(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_decay_checkpointing_averages_and_a_new_head_work(name):
    plain = timm.create_model(name, num_classes=7, **FAMILIES[name])
    model = timm.create_model(f"equi_{name}", num_classes=7, **FAMILIES[name])
    rates = [
        [(g["lr_scale"], g["weight_decay"], len(g["params"])) for g in opt.param_groups]
        for opt in (
            create_optimizer_v2(m, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
            for m in (plain, model)
        )
    ]
    assert rates[0] == rates[1]
    assert len({scale for scale, *_ in rates[0]}) > 2
    x = torch.randn(2, 3, 32, 32)
    model.eval()
    before = model(x)
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(model.train().eval()(x), before)
    ema = ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert change(ema.module, x) < 1e-5
    ema.update(model, step=1)
    assert change(ema.module, x) < 1e-5
    assert list(ema.module.state_dict()) == list(plain.state_dict())
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert change(model, x) < 1e-5
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert change(model, x) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_maps_turn_with_the_image(name):
    size = {"img_size": 64} if "img_size" in FAMILIES[name] else {}
    torch.manual_seed(1)
    model = timm.create_model(f"equi_{name}", group="C4", features_only=True, **size).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        here, there = model(x), model(turned(x))
        plain = ew.unwrap(model)
        pairs = zip(plain(x), plain(turned(x)), strict=True)
        assert max(float((turned(a) - b).abs().max()) for a, b in pairs) > 1e-3
    assert len(here) == len(model.feature_info.channels())
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(turned(a), b)


def test_the_signature_is_read_on_the_size_that_the_model_was_made_for():
    name, size = "equi_test_vit", {"img_size": 48}
    x = torch.randn(2, 3, 48, 48)
    model = timm.create_model(name, **size, num_classes=5).eval()
    assert str(model.equiwrap.signature) == "b c h w -> b k"
    assert change(model, x) < 1e-5 < change(ew.unwrap(model), x)
    maps = timm.create_model(name, **size, features_only=True).eval()(x)
    assert all(y.shape[-1] == 3 for y in maps)
    model.reset_classifier(0, "")
    with pytest.raises(ew.SignatureError, match="2 axes"):  # unpooled, it is another model
        model(x)


def test_the_names_are_listed_with_their_tags_and_the_sources_of_the_plain_ones():
    import dataclasses

    from timm.models import get_pretrained_cfg, resolve_pretrained_cfg

    names = timm.list_models("equi_*")
    plain = [n for n in timm.list_models() if not n.startswith("equi_")]
    assert {f"equi_{n}" for n in plain} <= set(names)
    assert not [n for n in timm.list_models("resnet*") if "equi" in n]
    assert timm.is_model_pretrained("equi_resnet18.a1_in1k")
    mine = dataclasses.asdict(get_pretrained_cfg("equi_resnet18.a1_in1k"))
    theirs = dataclasses.asdict(get_pretrained_cfg("resnet18.a1_in1k"))
    assert theirs["hf_hub_id"]
    assert mine == theirs | {"architecture": "equi_resnet18"}
    model = timm.create_model("equi_resnet18.a1_in1k", num_classes=2)
    assert model.pretrained_cfg["tag"] == "a1_in1k"
    assert model.pretrained_cfg["architecture"] == "resnet18"
    given = resolve_pretrained_cfg("equi_resnet18").to_dict()  # what timm's scripts pass on
    model = timm.create_model("equi_resnet18", pretrained_cfg=given, num_classes=2)
    assert model.pretrained_cfg["architecture"] == "resnet18"
    assert safe_model_name("equi_resnet18.a1_in1k") == "equi_resnet18_a1_in1k"


def test_pretrained_weights_go_to_the_model_inside(tmp_path):
    plain = timm.create_model("test_resnet", num_classes=1000)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    model = timm.create_model(
        "equi_test_resnet",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.pth")},
        group="D4",
        frame="whole",
        chunk=2,
        num_classes=5,
        in_chans=1,
    ).eval()
    torch.testing.assert_close(model.layer1[0].conv1.weight, plain.layer1[0].conv1.weight)
    x = torch.randn(2, 1, 32, 32)
    assert model(x).shape == (2, 5)
    assert change(model, x) < 1e-5
    assert model.equiwrap.config.frame == "whole"
    assert model.equiwrap.config.options["chunk"] == 2


def test_a_model_of_ones_own_gets_its_second_name_and_an_unknown_one_a_sentence():
    def my_small_net(pretrained=False, **kwargs):
        kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
        kwargs.pop("cache_dir", None)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    timm.models.register_model(my_small_net)
    assert not timm.is_model("equi_my_small_net")
    doors.register("my_small_net")
    model = timm.create_model("equi_my_small_net", group="D4")
    x = torch.randn(2, 3, 16, 16)
    assert change(ew.unwrap(model), x) > 1e-3
    assert change(model, x) < 1e-5
    assert doors.register("my_small_net") is timm.models.model_entrypoint("equi_my_small_net")
    with pytest.raises(ew.SignatureError, match=r"nearest are.*equi_resnet18"):
        doors.register("resnet81")


def test_words_that_do_not_fit_are_refused_as_ever():
    with pytest.raises(ew.SignatureError, match="penalty= came beside"):
        timm.create_model("equi_test_resnet", penalty=1.0)
    with pytest.raises(ew.GroupError):
        timm.create_model("equi_test_resnet", group="Q7")
    with pytest.raises(TypeError, match="pepper"):
        timm.create_model("equi_test_resnet", pepper=1)


# -- the weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_new_head_is_typed_anew(name):
    size = {"img_size": 32} if name == "test_vit" else {}
    words = {k: v for k, v in SOFT.items() if k != "example" or not size}
    model = timm.create_model(f"equi_{name}", **words, **size)
    x = torch.randn(2, 3, 32, 32)
    model.reset_classifier(11)
    assert model(x).shape == (2, 11)
    shapes = {t.path: t.shape for t in model.equiwrap.targets}
    names = dict(model.named_parameters())
    assert all(names[path].shape == shape for path, shape in shapes.items() if path in names)
    model.equiwrap.penalty().backward()
    assert len(model.equiwrap.targets) == len(shapes) > 0


def test_project_runs_with_a_dial_and_reads_types_on_the_size_asked_for():
    model = timm.create_model(
        "equi_test_resnet", group="C4", method="project", softness=0.25, example=33, num_classes=3
    )
    assert model.equiwrap.softness == 0.25
    assert not timm_models._waiting
    model.reset_classifier(4)
    assert model(torch.randn(2, 3, 33, 33)).shape == (2, 4)


# -- the decay that finds its optimiser ------------------------------------------------------------


def steps(model, optimizer, count=3):
    torch.manual_seed(3)
    for _ in range(count):
        x = torch.randn(4, 3, 33, 33)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(4) % 3).backward()
        optimizer.step()


def pair(**words):
    """Two equal models: as asked for, and one without a decay."""
    torch.manual_seed(0)
    model = timm.create_model("equi_test_resnet", **SOFT, **words)
    quiet = timm.create_model("equi_test_resnet", **SOFT, **words | {"decay": False})
    quiet.load_state_dict(model.state_dict())
    return model, quiet


@pytest.mark.parametrize("opt", ["sgd", "adamw", "lion", "lookahead_adamw"])
def test_the_decay_of_a_created_model_is_the_one_put_there_by_hand(opt):
    model, quiet = pair(penalty=5.0)
    free = copy.deepcopy(quiet)
    assert list(timm_models._waiting) == [model]
    first, second, third = (
        create_optimizer_v2(m, opt, lr=1e-2, weight_decay=0.01) for m in (model, quiet, free)
    )
    ew.EquivarianceDecay(quiet, second, 5.0)
    steps(free, third)
    assert len(timm_models._waiting) == 1  # another model's optimiser
    steps(model, first)
    steps(quiet, second)
    for a, b in zip(model.parameters(), quiet.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert defect(model) < 0.9 * defect(free)
    assert not timm_models._waiting
    assert not torch_optimizer._global_optimizer_pre_hooks


def test_options_reach_the_decay_and_a_decay_by_hand_is_not_doubled():
    model, quiet = pair(penalty=2.0, decay={"every": 3, "kind": "decay"})
    first, second = (create_optimizer_v2(m, "sgd", lr=1e-2) for m in (model, quiet))
    by_hand = ew.EquivarianceDecay(quiet, second, 2.0, every=3)
    steps(model, first, 4)
    steps(quiet, second, 4)
    assert (by_hand.steps, by_hand.waiting) == (4, 1)
    for a, b in zip(model.parameters(), quiet.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    again, _ = pair(penalty=2.0)
    third = create_optimizer_v2(again, "sgd", lr=1e-2)
    ew.EquivarianceDecay(again, third, 2.0)
    steps(again, third, 1)
    assert (
        len([h for h in third._optimizer_step_post_hooks.values() if hasattr(h, "__self__")]) == 1
    )


def test_copies_and_models_that_are_gone_do_not_wait():
    model, _ = pair(penalty=2.0)
    ema = ModelEmaV3(model)
    assert list(timm_models._waiting) == [model]
    held = copy.deepcopy(model)
    optimizer = create_optimizer_v2(held, "sgd", lr=1e-2)
    steps(held, optimizer, 1)
    assert list(timm_models._waiting) == [model]
    del model, ema
    gc.collect()
    assert not timm_models._waiting
    seen = []
    later = torch_optimizer.register_optimizer_step_pre_hook(lambda *_: seen.append(1))
    steps(held, optimizer, 2)  # the hook leaves, and those of others are not disturbed
    later.remove()
    assert len(seen) == 2
    assert not torch_optimizer._global_optimizer_pre_hooks


def test_a_step_that_the_scaler_skips_attaches_nothing():
    model, _ = pair(penalty=2.0)
    optimizer = create_optimizer_v2(model, "sgd", lr=1e-2)
    scaler = NativeScaler(device="cpu")
    before = defect(model)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 33, 33)), torch.arange(4) % 3)
    scaler(loss * torch.inf, optimizer, parameters=model.parameters())
    assert defect(model) == before
    assert len(timm_models._waiting) == 1
    optimizer.zero_grad()
    scaler(
        nn.functional.cross_entropy(model(torch.randn(4, 3, 33, 33)), torch.arange(4) % 3),
        optimizer,
        parameters=model.parameters(),
    )
    assert not timm_models._waiting


def test_a_compiled_model_is_found_too():
    model, quiet = pair(penalty=5.0)
    compiled = torch.compile(model, backend="eager")
    optimizer = create_optimizer_v2(compiled, "sgd", lr=1e-2)
    steps(compiled, optimizer, 2)
    steps(quiet, create_optimizer_v2(quiet, "sgd", lr=1e-2), 2)
    assert not timm_models._waiting
    assert defect(model) < 0.95 * defect(quiet)


# -- the task --------------------------------------------------------------------------------------


BATCH = (torch.randn(4, 3, 33, 33, generator=torch.Generator().manual_seed(5)), torch.arange(4) % 3)


def test_the_task_adds_the_penalty_and_nothing_else():
    model, quiet = pair(penalty=0.3)
    plain = ClassificationTask(quiet, nn.CrossEntropyLoss())
    task = doors.EquivariantTask(model, nn.CrossEntropyLoss())
    assert not timm_models._waiting  # the loss pulls, the decay does not
    assert list(task.state_dict()) == list(plain.state_dict())
    assert list(task.get_checkpoint_state()) == ["state_dict"]
    a, b = task(*BATCH), plain(*BATCH)
    torch.testing.assert_close(a["output"], b["output"])
    torch.testing.assert_close(
        a["equiv_penalty"], torch.tensor(0.3 * defect(model)), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(a["loss"], b["loss"] + a["equiv_penalty"])
    a["loss"].backward()
    b["loss"].backward()
    quiet.equiwrap.penalty().backward()
    for p, q in zip(model.parameters(), quiet.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_schedule_counts_training_calls_and_goes_on_from_a_checkpoint():
    model, _ = pair(penalty=1.0)
    task = doors.EquivariantTask(
        model, nn.CrossEntropyLoss(), penalty=2.0, schedule="linear", total=4
    )
    full = 2.0 * defect(model)
    found = [float(task(*BATCH)["equiv_penalty"]) for _ in range(3)]
    assert found == pytest.approx([0, full / 4, full / 2], rel=1e-4)
    task.eval()(*BATCH)
    state = task.get_checkpoint_state()
    assert state["task_state"] == {"equiv_calls": 3}
    other, _ = pair(penalty=1.0)
    again = doors.EquivariantTask(
        other, nn.CrossEntropyLoss(), penalty=2.0, schedule="linear", total=4
    )
    again.load_checkpoint_state(state["state_dict"], state["task_state"])
    assert float(again(*BATCH)["equiv_penalty"]) == pytest.approx(3 * full / 4, rel=1e-4)
    with pytest.raises(ValueError, match="at least 0"):
        doors.EquivariantTask(other, nn.CrossEntropyLoss(), penalty=-1.0)
    with pytest.raises(AttributeError, match="no targets"):
        doors.EquivariantTask(timm.create_model("equi_test_resnet"), nn.CrossEntropyLoss())


def test_the_task_goes_through_compile_averages_and_ddp(tmp_path):
    import torch.distributed as dist

    model, _ = pair(penalty=1.0)
    task = doors.EquivariantTask(model, nn.CrossEntropyLoss())
    task.setup_ema(decay=0.5)
    before = task(*BATCH)
    task.compile(backend="eager")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        task.prepare_distributed()
        after = task(*BATCH)
        torch.testing.assert_close(after["equiv_penalty"], before["equiv_penalty"])
        after["loss"].backward()
        target = model.equiwrap.targets[0]
        weight = model.get_parameter(target.path)
        assert weight.grad.abs().sum() > 0
        task.update_ema(step=1)
        keys = list(task.get_checkpoint_state(ema=True)["state_dict_ema"])
        assert keys == list(task.get_checkpoint_state()["state_dict"]) == list(model.state_dict())
    finally:
        dist.destroy_process_group()


def test_distillation_is_penalised_by_the_mixin():
    class Task(doors.EquivariantMixin, LogitDistillationTask):
        pass

    model, quiet = pair(penalty=0.5)
    teacher = timm.create_model("test_resnet", num_classes=3)
    task = Task(model, teacher, nn.CrossEntropyLoss())
    plain = LogitDistillationTask(quiet, teacher, nn.CrossEntropyLoss())
    a, b = task(*BATCH), plain(*BATCH)
    torch.testing.assert_close(a["loss"], b["loss"] + a["equiv_penalty"])
    assert a["equiv_penalty"] > 0
    assert set(a) == {*b, "equiv_penalty"}


# -- the launcher ----------------------------------------------------------------------------------

SCRIPT = """
import sys, torch, timm, beside
from timm.optim import create_optimizer_v2

def main():
    torch.manual_seed(0)
    model = timm.create_model(sys.argv[1], num_classes=3, **eval(sys.argv[2]))
    optimizer = create_optimizer_v2(model, "sgd", lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        y = model(torch.randn(4, 3, 33, 33))
        torch.nn.functional.cross_entropy(y, torch.arange(4) % 3).backward()
        optimizer.step()
    torch.save(model.state_dict(), sys.argv[3])

if __name__ == "__main__":
    main()
"""


def launch(*arguments, cwd):
    command = [sys.executable, "-m", "equiwrap.integrations.timm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_a_script_that_knows_nothing_of_equiwrap_trains_under_the_launcher(tmp_path):
    (tmp_path / "beside.py").write_text("")  # found beside the script, as python finds it
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = "dict(group='C4', method='penalize', penalty=20.0, example=33)"
    ran = launch(script, "equi_test_resnet", words, tmp_path / "m.pth", cwd="/")
    assert ran.returncode == 0, ran.stderr
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    timm.create_model("test_resnet", num_classes=3).load_state_dict(state, strict=True)
    model = timm.create_model("equi_test_resnet", **SOFT)
    before = defect(model)
    steps(model, torch.optim.SGD(ew.unwrap(model).parameters(), lr=1e-2))
    assert defect(model) > 0.8 * before
    model.load_state_dict(state)
    assert defect(model) < 0.2 * before


def test_the_launcher_says_what_it_misses(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside.py").write_text("")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    for argv, words in (
        ([str(script), "equi_test_resnot", "{}", ""], "nearest are equi_test_resnet"),
        (["nowhere.py"], "'nowhere.py' is no file"),
        ([], "no script was named"),
    ):
        with pytest.raises(SystemExit, match=words):
            doors.main(argv)
    with pytest.raises(RuntimeError, match="Unknown model"):  # not of ours
        doors.main([str(script), "test_resnot", "{}", ""])
