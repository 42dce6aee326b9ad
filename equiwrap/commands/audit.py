"""`python -m equiwrap audit timm:resnet18 --group D4`: audit a model named on the command line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..audit.report import Report, check_suffix
from ..errors import EquiwrapError, article
from ..groups import Group, parse_group
from ..signature import Signature, looks_like_images, trial_input
from .folder import Folder, Refusal

__all__ = ["add_arguments", "load", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", help="timm:NAME, or package.module:callable that returns a model")
    parser.add_argument("--group", required=True, help='as "C4", "D4", "SO(3)", or "auto"')
    parser.add_argument("--signature", help='as "b n v -> b k"; images need none')
    parser.add_argument("--shape", nargs="+", help="of each input, as 8,64,3; images need none")
    parser.add_argument("--size", type=int, help="side of the images; default: the model's own")
    parser.add_argument("--data", type=Path, help="folder of images, with or without classes")
    parser.add_argument("--out", type=Path, help="report.html or report.json")
    parser.add_argument("--batch", type=int, default=8, help="inputs in a batch (8)")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs and weights (0)")
    parser.add_argument("--pretrained", action="store_true", help="timm's trained weights")


def run(chosen: argparse.Namespace) -> int:
    """Load, audit, print, save; 1 and a sentence on stderr where that cannot be done."""
    try:
        report = _audited(chosen)
    except EquiwrapError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    if not chosen.out:
        return 0
    try:
        report.save(chosen.out)
    except OSError as error:
        print(f"{chosen.out} cannot be written: {error}.", file=sys.stderr)
        return 1
    print(f"\nReport: {chosen.out}")
    return 0


def _audited(chosen: argparse.Namespace) -> Report:
    """The report, with notes on where inputs and weights come from.

    Raises:
        Refusal: the arguments do not fit each other, the model, or what is installed.
    """
    try:
        check_suffix(chosen.out or "report.html")
    except ValueError as error:
        raise Refusal(str(error)) from None
    if chosen.batch < 1 or (chosen.size or 1) < 1:
        raise Refusal("--batch and --size count inputs and pixels: give 1 or more.")
    group = None if chosen.group == "auto" else parse_group(chosen.group)
    model = load(chosen.model, chosen.pretrained, chosen.seed)
    example: Any
    inputs: tuple[Tensor, ...]
    if chosen.data:
        example = Folder.read(chosen.data, model, chosen.batch, chosen.size, chosen.seed)
        first = next(iter(example))
        inputs, where = ((first[0] if example.labels else first),), str(example)
    else:
        inputs = _random(_shapes(chosen, model), chosen.seed, model, group)
        example, where = inputs if len(inputs) > 1 else inputs[0], "random inputs"
    _check(chosen.signature, group, inputs)
    out = _tried(model, inputs)
    notes, targets = [], None
    if chosen.data and example.labels:
        fits = isinstance(out, Tensor) and out.shape[1:] == (len(example.classes),)
        targets = True if fits else None
        notes.append(
            "The subfolders, in alphabetical order, were taken for the model's classes."
            if fits
            else "The number of subfolders is not that of the model's outputs: no targets."
        )
    if not chosen.data:
        notes.append(f"Inputs are random (normal, seed {chosen.seed}); give --data for images.")
    if chosen.model.startswith("timm:") and not chosen.pretrained:
        notes.append("Weights are random, too: --pretrained was not given.")
    from ..audit import audit

    with Progress() as progress:
        report = audit(
            model, chosen.group, example, targets, signature=chosen.signature, progress=progress
        )
    said = f"{where}: {report.inputs}" if report.inputs else where
    return replace(report, inputs=said, notes=(*report.notes, *notes))


class Progress:
    """A bar on stderr, by tqdm where it is installed, fed by `progress(done, total, what)`."""

    def __enter__(self) -> Progress:
        self.bar: Any = None
        return self

    def __call__(self, done: int, total: int, what: str) -> None:
        if find_spec("tqdm") is None:
            print(f"\r{done}/{total} {what[:60]:60}", end="", file=sys.stderr, flush=True)
            return
        from tqdm import tqdm

        self.bar = self.bar or tqdm(total=total, leave=False, unit="step")
        self.bar.total = total
        self.bar.set_description(what[:40], refresh=False)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif find_spec("tqdm") is None:
            print(file=sys.stderr)


# -- models ----------------------------------------------------------------------------------------


def load(source: str, pretrained: bool = False, seed: int = 0) -> nn.Module:
    """`"timm:NAME"` or `"package.module:callable"` (or a module itself), in eval mode.

    Raises:
        Refusal: there is nothing of this name, or it gives no model.
    """
    where, colon, name = source.partition(":")
    if not (where and colon and name):
        raise Refusal(
            f"{source!r} names no model: write timm:resnet18, or package.module:callable, as in "
            "mypackage.models:build."
        )
    torch.manual_seed(seed)
    if where == "timm":
        return _timm(name, pretrained).eval()
    if pretrained:
        raise Refusal(f"--pretrained is for timm's models; {source} loads its own weights.")
    found = _attribute(where, name)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise Refusal(f"{source} is {article(found)}, neither a model nor callable.")
        try:
            found = found()
        except Exception as error:
            raise Refusal(f"{source}() raised {_said(error)}; it is called alone.") from None
    if not isinstance(found, nn.Module):
        raise Refusal(f"{source}() returned {article(found)}; a torch.nn.Module is needed.")
    return found.eval()


def _timm(name: str, pretrained: bool) -> nn.Module:
    """A model of timm's.

    Raises:
        Refusal: timm is missing, has no such model, or cannot load its weights.
    """
    if find_spec("timm") is None:
        raise Refusal(
            f"timm:{name} needs timm, which cannot be imported here: install it with "
            'pip install "equiwrap[timm]".'
        )
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise Refusal(f"timm {timm.__version__} has no model {name!r}.{hint}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:
        what = f"timm:{name}" + (" with its trained weights" if pretrained else "")
        raise Refusal(f"{what} could not be made: {_said(error)}.") from None
    return model


def _attribute(where: str, name: str) -> Any:
    """`name` in the module `where`; the folder of the command is looked into, too.

    Raises:
        Refusal: one of them does not exist, or the module cannot be imported.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(where)
    except Exception as error:
        raise Refusal(f"The module {where} cannot be imported: {_said(error)}.") from None
    for part in name.split("."):
        if not hasattr(found, part):
            names = [known for known in dir(found) if not known.startswith("_")]
            near = difflib.get_close_matches(part, names, n=3) or names[:5]
            raise Refusal(f"{where} has no {part!r}; it has {', '.join(near) or 'nothing'}.")
        found = getattr(found, part)
    return found


def _said(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


# -- inputs ----------------------------------------------------------------------------------------


def _shapes(chosen: argparse.Namespace, model: nn.Module) -> list[tuple[int, ...]]:
    """As typed, or those of the images that the model was made for.

    Raises:
        Refusal: they cannot be read, or must be given.
    """
    if chosen.shape:
        try:
            return [tuple(int(n) for n in text.split(",")) for text in chosen.shape]
        except ValueError:
            given = " ".join(chosen.shape)
            raise Refusal(f"--shape {given} was given: write 8,64,3, batch included.") from None
    if not looks_like_images(model):
        raise Refusal(
            f"{chosen.model} does not look like an image model, so the shape of its inputs must "
            'be given, and how they move: --signature "b n v -> b k" --shape 8,64,3.'
        )
    _, channels, side, _ = trial_input(model)[0]
    side = chosen.size or side
    return [(chosen.batch, channels, side, side)]


def _random(
    shapes: Sequence[tuple[int, ...]], seed: int, model: nn.Module, group: Group | None
) -> tuple[Tensor, ...]:
    """Normal numbers of the model's dtype, complex where the group is."""
    like = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    dtype = like.to_complex() if group is not None and group.complex else like
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)


def _check(text: str | None, group: Group | None, inputs: Sequence[Tensor]) -> None:
    """Nothing, or what does not fit; images where there is no signature.

    Raises:
        Refusal: an input that cannot be drawn, or a number of shapes that differs.
        SignatureError: a shape that does not fit its pattern.
    """
    if group is None and text is None:
        return
    if text is None and inputs[0].ndim != 4:
        raise Refusal(
            "Inputs that are not images need a signature, which says how they move: "
            '--signature "b n v -> b k".'
        )
    signature = Signature.parse(text or "b c h w -> ...", group or "C4")
    loose = [name or str(kind) for name, kind in signature.inputs if kind.untouched or kind.ragged]
    if loose:
        raise Refusal(
            f"The command line draws inputs at random and cannot know {', '.join(loose)}: call "
            "ew.audit(model, group, example, signature=...) from Python."
        )
    if len(inputs) != len(signature.inputs):
        raise Refusal(
            f"The signature has {len(signature.inputs)} inputs and {len(inputs)} were given: name "
            "the shape of each, as in --shape 8,5,3 8,5,1."
        )
    for (name, kind), x in zip(signature.inputs, inputs, strict=True):
        kind.check(x, name or "The input")


def _tried(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """What the model says to them.

    Raises:
        Refusal: it does not take them.
    """
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise Refusal(
            f"The model does not take inputs of shape {shapes} ({_said(error)}): give --size or "
            "--shape."
        ) from None
