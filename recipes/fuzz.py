"""Random models and malformed words against equiwrap, for as many minutes as asked.

    python recipes/fuzz.py --minutes 10 --seed 0        # counts at the end; status 1 on a finding
    python recipes/fuzz.py --model 85 --law wrapped     # one model again, with its text
    python recipes/fuzz.py --words 1321                 # one malformed case again

A finding prints what reproduces it. The generator and the laws are those of tests/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import fuzz_laws
import fuzz_models
import fuzz_words

LAWS = {"wrapped": 1, "capture": 2, "weights": 1, "audit": 4, "probe": 4}  # every how many models
WORDS = 3  # malformed cases a model


def tried(law: str, drawn: fuzz_models.Drawn) -> tuple[str | None, str | None]:
    """(what was refused, the finding)."""
    try:
        return getattr(fuzz_laws, f"{law}_law")(drawn), None
    except Exception:
        return None, traceback.format_exc()


def again(chosen: argparse.Namespace) -> int:
    """One case by its number."""
    if chosen.words is not None:
        what, call, kind = fuzz_words.case(chosen.words)
        found = fuzz_words.fault(call, kind)
        print(what, found or "a sentence of ours, or accepted", sep="\n")
        return int(found is not None)
    drawn = fuzz_models.draw(chosen.model)
    refused, found = tried(chosen.law, drawn)
    print(drawn, found or refused or "holds", sep="\n")
    return int(found is not None)


def run(minutes: float, seed: int) -> int:
    """Draw until the time is over; the number of findings."""
    start, first = time.monotonic(), 1_000_000 * seed
    kinds, checked, refused, words = Counter(), Counter(), Counter(), Counter()
    findings = models = cases = 0
    while time.monotonic() - start < 60 * minutes:
        drawn = fuzz_models.draw(first + models)
        kinds[drawn.kind] += 1
        for law in (law for law, step in LAWS.items() if models % step == 0):
            said, found = tried(law, drawn)
            checked[law] += 1
            refused[law] += said is not None
            if found:
                findings += 1
                print(f"FINDING {law}: model {drawn.seed}\n{drawn}\n{found}", flush=True)
        for _ in range(WORDS):
            what, call, kind = fuzz_words.case(first + cases)
            words[kind.__name__] += 1
            found = fuzz_words.fault(call, kind)
            if found:
                findings += 1
                print(f"FINDING words {first + cases}: {what}\n  {found}", flush=True)
            cases += 1
        models += 1
    shown = ", ".join(f"{k} {n}" for k, n in sorted(kinds.items()))
    print(f"models drawn     {models} ({shown})")
    for law, count in checked.items():
        print(f"{law:16} {count}, of which {refused[law]} refused or left by a sentence")
    shown = ", ".join(f"{k} {n}" for k, n in sorted(words.items()))
    print(f"malformed cases  {cases} ({shown})")
    print(f"findings         {findings}")
    print(
        f"seconds          {time.monotonic() - start:.0f}, seed {seed}, torch {torch.__version__}"
    )
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=int, help="one model again")
    parser.add_argument("--law", choices=sorted(LAWS), default="wrapped")
    parser.add_argument("--words", type=int, help="one malformed case again")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())  # an accepted --out writes there
    if chosen.model is not None or chosen.words is not None:
        return again(chosen)
    return int(run(chosen.minutes, chosen.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
