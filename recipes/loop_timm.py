"""The training callback in timm's loop: its task, its optimiser, its scheduler, and three lines.

    python recipes/loop_timm.py
    python recipes/loop_timm.py --penalty 0           # measured, not pulled

The net and the batches of `recipes/loop_plain.py`, and so its table. timm's own train.py needs no
line at all: see `recipes/timm_train.py`. About ten seconds on one core of a CPU.
"""

from __future__ import annotations

from typing import Any

from loops import common
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from torch import nn

import equiwrap as ew


def train(options: common.Options) -> tuple[nn.Module, Any, common.Data]:
    """The trained model, the rows of its training, and the data."""
    data, net = common.digits(options), common.model(options)
    loader = common.loader(data, options)
    task = ClassificationTask(net, nn.CrossEntropyLoss(), verbose=False)
    optimizer = create_optimizer_v2(net, opt="adamw", lr=common.RATE, weight_decay=0.0)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=options.epochs,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    callback = ew.EquivarianceCallback(net, **options.callback(data))
    for epoch in range(options.epochs):
        task.train()
        for i, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            task(x, y)["loss"].backward()
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()
            scheduler.step_update(epoch * len(loader) + i + 1)
        callback.after_epoch()
    return net, callback.finish(), data


def main() -> None:
    """The command line."""
    options = common.asked(__doc__)
    net, run, data = train(options)
    print(run)
    print(common.final_table(net, run, data))


if __name__ == "__main__":
    main()
