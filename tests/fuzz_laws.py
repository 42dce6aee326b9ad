"""What must hold of whatever the generator draws: wrapped, captured, projected.

A law returns None, or the sentence with which equiwrap refused; a breach is an AssertionError.
"""

from __future__ import annotations

import copy
import warnings

import torch
from fuzz_acting import act, inverse, leaves, single, slow_average, spread
from fuzz_models import Drawn
from reference_capture import assert_same, note, snapshot
from torch import Tensor

import equiwrap as ew
from equiwrap.graph import capture
from equiwrap.penalty import live
from equiwrap.signature import Signature

INEXACT = ("C3", "C8")  # pixels between pixels


def tolerance(drawn: Drawn) -> float:
    """Of a relative difference, by dtype; groups without a compact frame amplify rounding."""
    wide = drawn.dtype is torch.float64
    steep = any(name in drawn.group for name in ("GL", "SL", "Aff", "1,", "R+"))
    return (1e-5 if steep else 1e-7) if wide else (0.3 if steep else 5e-3)


def sentence(error: Exception) -> str:
    """Its words, if they are a sentence."""
    assert len(str(error)) >= 40, f"no sentence: {error}"
    return str(error)


def plainly(model, inputs):
    """The plain model's outputs, or None where its own code raises."""
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception:
        return None


def gap(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """*max |a − b| / max(|b|, scale)*; infinite where one alone is not a number."""
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    assert a.dtype == b.dtype, f"dtypes {a.dtype} and {b.dtype}"
    if not a.numel():
        return 0.0
    found = (a - b).abs().amax() / torch.clamp(b.abs().amax(), min=max(scale, 1e-12))
    return float(found) if torch.isfinite(found) else float("inf")


def wrapped_law(drawn: Drawn) -> str | None:
    """*⟨f⟩ = Σ w ρ f ρ⁻¹ by the slow road*, equivariant, with everything around it intact."""
    net = drawn.build()
    inputs = drawn.feed(3)
    if plainly(net, inputs) is None or plainly(net, drawn.feed(1)) is None:
        return "the plain model raises"
    before = snapshot(net)
    try:
        model = ew.equivariantize(
            net, drawn.group, drawn.signature, frame=drawn.frame, mask=drawn.mask, **drawn.options
        )
        with torch.no_grad():
            model(*inputs)
    except ew.EquiwrapError as error:
        return sentence(error)
    sig: Signature = model.equiwrap.signature
    with torch.no_grad():
        found = leaves(sig, model(*inputs))
        plain = leaves(sig, net(*inputs))
        size = max(map(spread, plain))
        slow = slow_average(drawn, net, model.equiwrap.frame, sig, inputs)
    if slow is not None:
        b = drawn.options.get("softness") or 0.0
        for fast, mean, own in zip(found, slow, plain, strict=True):
            other = (1 - b) * mean + b * own
            error = gap(fast, other, size)
            assert error <= tolerance(drawn), f"the slow average differs by {error:.1e}"
    _equivariant(drawn, model, inputs, found)
    _batches(drawn, net, model)
    _spoilt(drawn, model, sig)
    _intact(net, model, before, inputs)
    _gradients(drawn, model, sig)
    return None


def _equivariant(drawn, model, inputs, found) -> None:
    frame = type(model.equiwrap.frame).__name__
    if (
        drawn.options.get("softness")
        or frame == "Haar"
        or (drawn.kind == "image" and drawn.group in INEXACT)
    ):
        return
    if drawn.kind == "ragged":
        return
    try:
        error = ew.measure.equivariance_error(model, None, *inputs, elements=4)
    except ew.FrameError:
        return
    text = f"equivariance error {error}, worst {error.worst:.1e}"
    assert error.worst <= 10 * tolerance(drawn), text


def _batches(drawn, net, model) -> None:
    """No, one and five samples: the same shapes as the plain model's."""
    for b in (0, 1, 5):
        inputs = drawn.feed(b, seed=1)
        plain = plainly(net, inputs)
        if plain is None:
            continue
        try:
            with torch.no_grad():
                out = model(*inputs)
        except ew.EquiwrapError:
            continue
        assert type(out) is type(plain), f"batch {b}: a {type(out)} came, not a {type(plain)}"
        sig = model.equiwrap.signature
        for a, p in zip(leaves(sig, out), leaves(sig, plain), strict=True):
            assert a.shape == p.shape, f"batch {b}: {tuple(a.shape)}, plainly {tuple(p.shape)}"
            assert a.dtype == p.dtype, f"batch {b}: {a.dtype}, plainly {p.dtype}"


def _spoilt(drawn, model, sig) -> None:
    """A sample that is not a number spoils no other."""
    if drawn.kind == "ragged" or drawn.style != "plain":
        return
    good = drawn.feed(3, seed=2)
    bad = tuple(x.clone() if isinstance(x, Tensor) else x for x in good)
    single(bad[0], drawn.inputs[0][1], 1).fill_(float("nan"))
    with torch.no_grad():
        try:
            one, two = leaves(sig, model(*good)), leaves(sig, model(*bad))
        except ew.EquiwrapError:
            return
    patterns = [str(kind) for _, kind in sig.outputs]
    for a, b, pattern in zip(one, two, patterns, strict=True):
        for i in (0, 2):
            error = gap(single(b, pattern, i), single(a, pattern, i), spread(a))
            assert error <= tolerance(drawn), f"a NaN in sample 1 moves sample {i} by {error:.1e}"


def _intact(net, model, before, inputs) -> None:
    assert_same(before, snapshot(net), "the plain model")
    assert ew.unwrap(model) is net
    assert list(model.state_dict()) == list(net.state_dict())
    model.load_state_dict(net.state_dict(), strict=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        sig = model.equiwrap.signature
        for a, b in zip(leaves(sig, twin(*inputs)), leaves(sig, model(*inputs)), strict=True):
            assert torch.equal(a, b) or not a.isfinite().all(), "a deep copy differs"


def _gradients(drawn, model, sig) -> None:
    inputs = drawn.feed(3, seed=3, style="grad")
    try:
        out = leaves(sig, model(*inputs))
    except ew.EquiwrapError:
        return
    total = sum(x.abs().sum() if x.is_complex() else x.sum() for x in out)
    if not total.requires_grad:
        return
    total.backward()
    for name, p in [*model.named_parameters(), *((f"input {i}", x) for i, x in enumerate(inputs))]:
        grad = getattr(p, "grad", None)
        assert grad is None or grad.isfinite().all(), f"the gradient of {name} is not finite"
    model.zero_grad()
    model.train()
    try:
        for a, b in zip(leaves(sig, model(*inputs)), out, strict=True):
            assert a.shape == b.shape, "another shape in training"
            assert a.isfinite().all(), "not finite in training"
    except ValueError as said:
        if "more than 1 value per channel" not in str(said):
            raise
    model.eval()


def audit_law(drawn: Drawn) -> str | None:
    """*An audit leaves the model and the random numbers alone*, and its report prints and saves."""
    net, inputs = drawn.build(), drawn.feed(2, style="plain")
    if drawn.kind == "ragged" or plainly(net, inputs) is None:
        return "not audited"
    before = snapshot(net)
    try:
        report = ew.audit(net, drawn.group, inputs, signature=drawn.signature)
    except ew.EquiwrapError as error:
        return sentence(error)
    finally:
        assert_same(before, snapshot(net), "audited")
    assert len(str(report)) > 100
    return None


def probe_law(drawn: Drawn) -> str | None:
    """*Probes watch and change nothing*: the same outputs, and finite errors of layers."""
    net, inputs = drawn.build(), drawn.feed(2, style="plain")
    if plainly(net, inputs) is None:
        return "the plain model raises"
    before = snapshot(net)
    asked = {"frame": drawn.frame, "mask": drawn.mask}
    try:
        plain = ew.equivariantize(net, drawn.group, drawn.signature, **asked)
        with torch.no_grad():
            here = leaves(plain.equiwrap.signature, plain(*inputs))
        model = ew.equivariantize(
            net, drawn.group, drawn.signature, probes=True, example=inputs, tol=1e9, **asked
        )
        found = model.equiwrap.probes.measure(*inputs)
    except ew.EquiwrapError as error:
        return sentence(error)
    assert_same(before, snapshot(net), "probed")
    with torch.no_grad():
        for a, b in zip(leaves(plain.equiwrap.signature, model(*inputs)), here, strict=True):
            assert torch.equal(a, b), "probes change the output"
    assert len(str(found)) > 20
    assert len(str(model.equiwrap.report())) > 100
    return None


# -- capture ---------------------------------------------------------------------------------------


def capture_law(drawn: Drawn) -> str | None:
    """*The installed plans do what the model does*, bit for bit, in eval and in train."""
    twin, model = drawn.build(), drawn.build()
    inputs = drawn.feed(2)
    if plainly(twin, inputs) is None:
        return "the plain model raises"
    before = snapshot(model)
    found = capture(model, *inputs)
    assert_same(before, snapshot(model), "captured")
    faults = {k: v for k, v in found.reasons.items() if "fault of equiwrap" in v}
    assert not faults, f"capture fails: {faults}"
    undo = found.install(model)
    for train in (False, True):
        twin.train(train), model.train(train)
        for b in (2, 1, 3):
            args = drawn.feed(b, seed=b)
            where = f"captured, batch {b}, train={train}"
            assert_same(note(twin, args, {}, seed=b), note(model, args, {}, seed=b), where)
    undo()
    assert type(model).__qualname__ == type(twin).__qualname__
    return None if found.tiers.get("") == "graph" else f"not seen: {found.reasons.get('')}"


# -- weights ---------------------------------------------------------------------------------------


def weights_law(drawn: Drawn) -> str | None:
    """*P² = P = Pᵀ*, the penalty is Σ |W − PW|², and EXACT is exact, also after training."""
    net = drawn.build()
    inputs = drawn.feed(2, style="plain")
    if plainly(net, inputs) is None:
        return "the plain model raises"
    hidden = ("trivial", "regular", "auto")[drawn.seed % 3]
    before = snapshot(net)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ew.NoEffectWarning)
            soft = ew.equivariantize(
                net,
                drawn.group,
                drawn.signature,
                method="penalize",
                penalty=0.5,
                hidden=hidden,
                example=inputs,
            )
    except ew.EquiwrapError as error:
        return sentence(error)
    assert_same(before, snapshot(net), "penalized")
    handle = soft.equiwrap
    total = 0.0
    for target, weight in live(soft, handle.targets):
        _projector(target, weight)
        if not (isinstance(weight, torch.nn.Parameter) and weight.requires_grad):
            continue
        weight = weight.detach()
        total += 0.5 * float((weight - target.projector(weight)).double().square().sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ew.NoEffectWarning)
        value = float(handle.penalty())
    assert abs(value - total) <= 1e-4 * max(total, 1e-6), f"penalty {value}, by hand {total}"
    str(handle.report())
    if handle.label == "EXACT":
        _exact(drawn, handle, "as drawn")
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.3 * torch.randn_like(p))
        _exact(drawn, handle, "after other weights")
    _project(drawn, net, handle, inputs, hidden)
    _projected(drawn, net, handle, inputs, hidden)
    if handle.targets:
        _decayed(drawn, net, soft)
    return None if handle.label == "EXACT" else handle.label


def _projector(target, weight) -> None:
    w, v = torch.randn(2, *weight.shape, dtype=torch.float64)
    pw, pv = target.projector(w), target.projector(v)
    assert gap(target.projector(pw), pw, 1.0) <= 1e-12, f"P² ≠ P at {target.path}"
    here, there = float((pw * v).sum()), float((w * pv).sum())
    assert abs(here - there) <= 1e-10 * (1 + w.numel()), f"P ≠ Pᵀ at {target.path}"


def _exact(drawn: Drawn, handle, when: str) -> None:
    """The folded model at b = 0, by the slow action, on inputs and a batch that nobody has seen."""
    handle.view.double()
    plain, whole = (handle.fold(softness=b).eval() for b in (0.0, 1.0))
    handle.view.to(drawn.dtype)
    sig = handle.signature
    wide = [
        x.detach() if isinstance(x, Tensor) else x for x in drawn.feed(3, seed=7, style="plain")
    ]
    inputs = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in wide]
    sizes = {}
    for (_, kind), x in zip(sig.inputs, inputs, strict=True):
        sizes |= {} if kind.untouched else kind.sizes(kind.to_front(x))
    group = sig.group.at(sizes)
    elements = group.elements() if group.order and group.order <= 64 else group.sample(3)
    with torch.no_grad():
        here = leaves(sig, plain(*inputs))
        size = max(spread(y) for y in leaves(sig, whole(*inputs)))
        for g in elements:
            moved = [
                x if kind.untouched else act(drawn, str(kind), group, g, x)
                for (_, kind), x in zip(sig.inputs, inputs, strict=True)
            ]
            for (_, kind), a, b in zip(sig.outputs, here, leaves(sig, plain(*moved)), strict=True):
                error = gap(b, act(drawn, str(kind), group, g, a), size)
                assert error <= 1e-8, f"EXACT, and {when} the error is {error:.1e}"
    assert inverse(group, g) is not None


def _project(drawn, net, handle, inputs, hidden) -> None:
    if handle.config.hidden != hidden:
        return
    twin = copy.deepcopy(net)
    try:
        ew.project_(twin, drawn.group, drawn.signature, example=inputs, hidden=hidden)
    except ew.EquivarianceError:
        if handle.label == "EXACT":
            raise
        assert_same(
            [(k, v.clone()) for k, v in net.state_dict().items()],
            list(twin.state_dict().items()),
            "project_ wrote before it refused",
        )
        return
    assert handle.label == "EXACT", f"project_ took a model that is {handle.label}"
    folded = handle.fold(softness=0.0).state_dict()
    for name, value in twin.state_dict().items():
        if value.is_floating_point():
            assert gap(value, folded[name], 1e-3) <= 1e-5, f"project_ and fold differ at {name}"


def _projected(drawn, net, handle, inputs, hidden) -> None:
    """The forward on projected weights is that of the folded copy, at any dial."""
    b = (0.0, 0.5)[drawn.seed % 2]
    if handle.config.hidden != hidden or (b == 0 and handle.label != "EXACT"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ew.NoEffectWarning)
        model = ew.equivariantize(
            net,
            drawn.group,
            drawn.signature,
            method="project",
            softness=b,
            hidden=hidden,
            example=inputs,
        )
    sig = handle.signature
    with torch.no_grad():
        there = leaves(sig, model.equiwrap.fold()(*inputs))
        for a, c in zip(leaves(sig, model(*inputs)), there, strict=True):
            assert gap(a, c, spread(c)) <= tolerance(drawn), "projected and folded differ"


def _decayed(drawn, net, soft) -> None:
    """*W ← PW + (1 − c)(W − PW)*: a decay leaves PW where it is and shrinks the rest, by one c."""
    net.to(torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ew.EquivarianceDecay(soft, optimizer, strength=1.0)
    pairs = [(t, w) for t, w in live(soft, soft.equiwrap.targets) if w.is_floating_point()]
    before = [(t.projector(w.detach()), w.detach().clone()) for t, w in pairs]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for (target, weight), (there, old) in zip(pairs, before, strict=True):
        now = weight.detach()
        size = spread(old)
        assert gap(target.projector(now), there, size) <= 1e-9, f"{target.path}: PW moves"
        rest, was = (now - there).norm(), (old - there).norm()
        assert rest <= 0.95 * was + 1e-9 * size, f"{target.path}: W − PW does not shrink"
