"""How a wrapped model stays itself: a generated subclass over the very same `__dict__`.

The wrapped module m and the original are two objects of two classes with *one* attribute
dictionary. Whatever moves in one (parameters, buffers, submodules, hooks, the training flag, plain
attributes) has moved in the other, because there is only one of it. The subclass has the original's
name; all it adds is a forward, and the class attribute `equiwrap`. Calls, keys, optimisers,
`functional_call`, FSDP2,
`torch.compile` and `torch.export` meet an ordinary module.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .handle import Handle
    from .soft import Soft

__all__ = ["PREFIX", "handle_of", "install", "original_forward", "view_of"]

PREFIX = "equiwrap"


def view_of(model: nn.Module, cls: type[nn.Module]) -> nn.Module:
    """A module of class `cls` that shares `model.__dict__`."""
    view = object.__new__(cls)
    object.__setattr__(view, "__dict__", model.__dict__)
    return view


def handle_of(model: Any) -> Any:
    """What a wrapping left on the class of the model; None where there is none."""
    return getattr(type(model), PREFIX, None)


def original_forward(view: nn.Module) -> Any:
    """The forward that the model had, including one that was set on the instance."""
    own = view.__dict__.get("forward")
    if own is None:
        return view.forward
    return (
        types.MethodType(own.__func__, view)
        if inspect.ismethod(own)
        and type(own.__self__) is not type(view)
        and isinstance(own.__self__, type(view))
        else own
    )


def install(model: nn.Module, handle: Handle | Soft, *, in_place: bool) -> nn.Module:
    """The wrapped module: `model` itself with its class swapped, or a second object beside it."""
    original = type(model)
    generated = _subclass(original, handle, handle.frame if _has_state(handle.frame) else None)
    if in_place:
        model.__class__ = generated
        return model
    return view_of(model, generated)


def _has_state(frame: nn.Module) -> bool:
    return any(True for _ in frame.parameters()) or any(True for _ in frame.buffers())


def _subclass(
    original: type[nn.Module], handle: Handle | Soft, learned: nn.Module | None
) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return handle(*args, **kwargs)

    functools.update_wrapper(forward, original.forward, updated=())
    # tools read the arguments off the signature (export, trainers that drop unused columns)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    found = inspect.signature(handle.forward)
    forward.__signature__ = _with_self(found, own)  # type: ignore[attr-defined]

    def deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        twin = handle.rebuild(copy.deepcopy(handle.view, memo), copy.deepcopy(handle.frame, memo))
        memo[id(self)] = twin
        return twin

    def reduce(self: nn.Module, protocol: Any = None) -> Any:
        return type(handle).from_spec, (handle.view, handle.frame, handle.spec())

    space: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "forward": _instance_forward(forward) if "forward" in handle.view.__dict__ else forward,
        "__deepcopy__": deepcopy,
        "__reduce_ex__": reduce,
        PREFIX: handle,
        # Module.compile() stores its result on the instance, which two classes share here
        "_compiled_call_impl": property(
            lambda self: handle.compiled, lambda self, value: setattr(handle, "compiled", value)
        ),
    }
    if learned is not None:
        space |= _with_child(original, learned)
    return types.new_class(original.__name__, (original,), {}, lambda body: body.update(space))


def _with_self(found: inspect.Signature, own: inspect.Parameter) -> inspect.Signature:
    if any(p.name == own.name for p in found.parameters.values()):
        own = own.replace(name="module")
    return found.replace(parameters=[own, *found.parameters.values()])


def _instance_forward(forward: Any) -> property:
    """Overrules a `forward` in the shared `__dict__` (some models assign one to themselves)."""
    return property(lambda self: types.MethodType(forward, self), lambda self, value: None)


def _with_child(original: type[nn.Module], learned: nn.Module) -> dict[str, Any]:
    """Register a learned frame under the prefix `equiwrap.`, in the wrapped module's view only."""

    def modules(self: nn.Module) -> dict[str, nn.Module | None]:
        return {**self.__dict__["_modules"], PREFIX: learned}

    def load_state_dict(self: nn.Module, state: Any, strict: bool = True, **kwargs: Any) -> Any:
        own = not isinstance(state, Mapping)  # torch says what it needs
        if own or any(str(key).startswith(f"{PREFIX}.") for key in state):
            return original.load_state_dict(self, state, strict=strict, **kwargs)
        frame = {f"{PREFIX}.{key}": value for key, value in learned.state_dict().items()}
        return original.load_state_dict(self, {**state, **frame}, strict=strict, **kwargs)

    return {"_modules": property(modules), "load_state_dict": load_state_dict}
