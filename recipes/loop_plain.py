"""The training callback in a plain loop: three lines.

    python recipes/loop_plain.py                      # a conv net
    python recipes/loop_plain.py --model vit          # the ViT of recipes/loop_transformers.py
    python recipes/loop_plain.py --penalty 0          # measured, not pulled

About ten seconds on one core of a CPU, the ViT twenty; `--quick` takes a few.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from loops import common
from torch import nn
from torch.nn.functional import cross_entropy

import equiwrap as ew


def train(options: common.Options) -> tuple[nn.Module, Any, common.Data]:
    """The trained model, the rows of its training, and the data."""
    data, net = common.digits(options), common.model(options)
    loader, optimizer = common.loader(data, options), common.optimizer(net)
    scheduler = common.scheduler(optimizer, options)
    run = torch.compile(net) if options.compile else net
    callback = ew.EquivarianceCallback(net, **options.callback(data))
    for _ in range(options.epochs):
        net.train()
        for x, y in loader:
            loss = cross_entropy(common.logits(run(x)), y)
            optimizer.zero_grad()
            loss.backward()
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()
            scheduler.step()
        callback.after_epoch()
    return net, callback.finish(), data


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="conv", choices=["conv", "vit"])
    parser.add_argument("--compile", action="store_true", help="train the compiled model")
    options = common.asked(__doc__, parser)
    net, run, data = train(options)
    print(run)
    print(common.final_table(net, run, data))


if __name__ == "__main__":
    main()
