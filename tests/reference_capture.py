"""Everything that a call of a model does, written down, and the differences between two such notes.

Comparisons are bit for bit. Nothing here knows how a model is captured or installed.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)
CALLABLES = (FunctionType, BuiltinFunctionType, MethodType, ModuleType)
REGISTERED = ("_parameters", "_buffers", "_modules")


def seeded(seed: int) -> None:
    """Every generator that a forward may draw from starts at `seed`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generators() -> list[tuple[str, object]]:
    """Where these generators are."""
    numpy = np.random.get_state()
    return [
        ("generator of torch", torch.get_rng_state()),
        ("generator of Python", repr(random.getstate())),
        ("generator of numpy", (numpy[1].tobytes(), *numpy[2:])),
    ]


def leaves(value, path: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, object]]:
    """(path, leaf) of every atom and tensor in nested containers and in the fields of objects."""
    if isinstance(value, (*ATOMS, *CALLABLES, Tensor)):
        yield path, value
        return
    if isinstance(value, torch.Generator):
        yield path, value.get_state()
        return
    yield f"{path}:", type(value).__name__ if isinstance(value, nn.Module) else type(value)
    if id(value) in seen:
        return
    seen = (*seen, id(value))
    if isinstance(value, np.ndarray):
        yield path, value.tobytes()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]", seen)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]", seen)
    elif isinstance(value, (set, frozenset)):
        yield path, tuple(sorted(map(repr, value)))
    elif is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}", seen)
    elif not isinstance(value, nn.Module):
        for name, item in getattr(value, "__dict__", {}).items():
            if not name.startswith("__"):
                yield from leaves(item, f"{path}.{name}", seen)


def attributes(model: nn.Module) -> Iterator[tuple[str, object]]:
    """Every entry of every module's `__dict__`, hooks included; registered tensors by value."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            yield from module.named_parameters(name, recurse=False)
            yield from module.named_buffers(name, recurse=False)
            continue
        for key, value in vars(module).items():
            if key == "_modules":
                yield f"{name}.children", ",".join(value)
            elif key in REGISTERED:
                yield f"{name}.{key}", ",".join(value)
                yield from ((f"{name}.{k}", v) for k, v in value.items())
            elif "hooks" in key and isinstance(
                value, Mapping
            ):  # by the functions; handles count upwards over the whole process
                yield from leaves(list(value.values()), f"{name}.{key}")
            else:
                yield from leaves(value, f"{name}.{key}")


def frozen(items: Iterator[tuple[str, object]]) -> list[tuple[str, object]]:
    """Tensors are cloned, so that later writes do not reach the note."""
    return [
        (k, v.detach().clone().requires_grad_(v.requires_grad) if _plain(v) else v)
        for k, v in items
    ]


def _plain(value: object) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and not value.is_inference()


def is_lazy(value: object) -> bool:
    """Whether a parameter has no values yet."""
    return isinstance(value, nn.parameter.UninitializedTensorMixin)


def fed(value, *, grad: bool, wide: bool, roots: list[Tensor]):
    """A fresh copy of arguments; floats descend from leaves in `roots` that may get gradients."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value.clone()
        root = value.detach().clone(memory_format=torch.preserve_format)
        root = (root.double() if wide else root).requires_grad_(grad)
        roots.append(root)
        return root.clone(memory_format=torch.preserve_format) if grad else root
    again = {"grad": grad, "wide": wide, "roots": roots}
    if isinstance(value, Mapping):
        return type(value)({k: fed(v, **again) for k, v in value.items()})
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(fed(v, **again) for v in value)
    if type(value).__name__ == "SimpleNamespace":
        return type(value)(**{k: fed(v, **again) for k, v in vars(value).items()})
    return value


def note(
    model: nn.Module,
    args: tuple,
    kwargs: dict,
    *,
    seed: int = 0,
    grad: bool = True,
    wide: bool = False,
    inputs: bool = True,
    log: list[str] | None = None,
) -> list[tuple[str, object]]:
    """One seeded call and its backward pass: (what, value) of all that can be seen afterwards.

    `grad`: gradients are on; `inputs`: also towards the arguments; `wide`: these are in float64.
    """
    roots: list[Tensor] = []
    args = fed(args, grad=grad and inputs, wide=wide, roots=roots)
    kwargs = fed(kwargs, grad=grad and inputs, wide=wide, roots=roots)
    model.zero_grad(set_to_none=True)
    before = len(log or [])
    seeded(seed)
    found: list[tuple[str, object]] = []
    with warnings.catch_warnings(record=True) as said, torch.set_grad_enabled(grad):
        warnings.simplefilter("always")
        try:
            found += _outputs(model, model(*args, **kwargs), args, kwargs)
            found += generators()
            if grad:
                found += _gradients(model, [v for _, v in found], roots)
        except Exception as error:
            words = [s for s in str(error).split("\n") if s]
            found.append(("raises", f"{type(error).__name__}: {words[:1]}"))
    found += [("argument" + k, v) for k, v in leaves((args, kwargs))]
    found += attributes(model)
    found.append(("grad mode", torch.is_grad_enabled()))
    found.append(("log", tuple(log[before:] if log else ())))
    found.append(("warnings", tuple(str(w.message) for w in said if "trap" in str(w.message))))
    return found  # nothing is cloned: the next call of this model is for after the comparison


def _outputs(model: nn.Module, out, args, kwargs) -> Iterator[tuple[str, object]]:
    """Values, types, flags, and which argument or parameter an output is or shares memory with."""
    given = dict(leaves((args, kwargs)))
    known = {**given, **dict(model.named_parameters()), **dict(model.named_buffers())}
    known = {k: v for k, v in known.items() if isinstance(v, Tensor) and not is_lazy(v)}
    tensors = [(k, v) for k, v in leaves(out) if isinstance(v, Tensor)]
    for path, value in leaves(out):
        yield f"output{path}", value
        if isinstance(value, Tensor):
            others = {**known, **{f"output{k}": v for k, v in tensors if k != path}}
            yield f"output{path} is", ",".join(k for k, v in others.items() if v is value)
            yield f"output{path} shares", ",".join(k for k, v in others.items() if _alias(v, value))
            yield f"output{path} type", f"{type(value)} {value.stride()} {value.requires_grad}"


def _alias(a: Tensor, b: Tensor) -> bool:
    with contextlib.suppress(Exception):  # sparse tensors have no storage of their own
        return a.numel() > 0 and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return False


def _gradients(model: nn.Module, found: list, roots: list[Tensor]) -> list[tuple[str, object]]:
    """Of a fixed weighted sum of every output, on arguments and on parameters."""
    total = torch.zeros((), dtype=torch.float64)
    for value in found:
        if isinstance(value, Tensor) and value.requires_grad and value.is_floating_point():
            weight = torch.arange(value.numel(), dtype=value.dtype, device=value.device).cos()
            total = total + (value * weight.reshape(value.shape)).sum().double().cpu()
    if total.requires_grad:
        total.backward()
    named = [(f"gradient {k}", p.grad) for k, p in model.named_parameters()]
    return named + [(f"gradient of argument {i}", r.grad) for i, r in enumerate(roots)]


def differences(one: list[tuple[str, object]], two: list[tuple[str, object]]) -> list[str]:
    """What two notes do not agree upon, bit for bit."""
    a, b = dict(one), dict(two)
    for w, c, d in (("1st", a, b), ("2nd", b, a)):
        if "raises" in c and "raises" not in d:
            return [f"only the {w} raises {c['raises']}"]
    missing = [
        f"{k} only in the {w}" for w, c, d in (("1st", a, b), ("2nd", b, a)) for k in c.keys() - d
    ]
    return sorted(missing) + [
        f"{key}: {_short(a[key])} != {_short(b[key])}"
        for key in a
        if key in b and not same(a[key], b[key])
    ]


def same(a: object, b: object) -> bool:
    """Equal in every bit; functions by their code, so that two lambdas of one line are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if is_lazy(a) or is_lazy(b):
            return type(a) is type(b)
        return (a.dtype, a.shape, a.device, a.requires_grad) == (
            b.dtype,
            b.shape,
            b.device,
            b.requires_grad,
        ) and _bits(a.detach(), b.detach())
    if isinstance(a, CALLABLES) and isinstance(b, CALLABLES):
        return getattr(a, "__qualname__", a) == getattr(b, "__qualname__", b)
    return type(a) is type(b) and (a == b or a != a)


def _bits(a: Tensor, b: Tensor) -> bool:
    with contextlib.suppress(RuntimeError):  # sparse
        if torch.equal(a, b):
            return True
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        head = [] if is_lazy(value) else value.detach().flatten()[:4].tolist()
        return f"{tuple(value.shape)} {value.dtype} {value.requires_grad} {head}"
    return repr(value)[:120]


def assert_same(one: list[tuple[str, object]], two: list[tuple[str, object]], where: str) -> None:
    """Raise with the first differences."""
    found = differences(one, two)
    assert not found, f"{where}: " + "; ".join(found[:4]) + f" ({len(found)} in all)"


def snapshot(model: nn.Module) -> list[tuple[str, object]]:
    """The model as it lies there: values, versions, identities and classes of all that it holds."""
    found = list(attributes(model))
    found += generators()
    for name, module in model.named_modules(remove_duplicate=False):
        found.append((f"{name} class", type(module)))
        if isinstance(module, torch.jit.ScriptModule):
            continue
        found += [(f"{name}.{k} id", id(v)) for k, v in vars(module).items() if k != "training"]
        for key in REGISTERED:
            found += [(f"{name}.{key} {k} id", id(v)) for k, v in vars(module)[key].items()]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not is_lazy(tensor):
            found += [(f"{name} version", tensor._version), (f"{name} grad", tensor.grad is None)]
    return frozen(iter(found))
