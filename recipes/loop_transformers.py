"""The training callback under transformers' Trainer: one line.

    python recipes/loop_transformers.py
    python recipes/loop_transformers.py --penalty 0   # measured, not pulled

A tiny ViT, the one of `recipes/loop_plain.py --model vit`, on the same batches with the same steps.
About half a minute on one core of a CPU; `--quick` takes a few seconds.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from loops import common
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

from equiwrap.integrations.transformers import EquivarianceCallback


class Digits(Trainer):
    """A Trainer whose batches come in the order of the other loops."""

    def _get_train_sampler(self, train_dataset: Any = None) -> common.Order:
        return common.Order(len(self.train_dataset), self.args.data_seed)


def named(batch: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What ViTForImageClassification takes."""
    x, y = zip(*batch, strict=True)
    return {"pixel_values": torch.stack(x), "labels": torch.stack(y)}


def train(options: common.Options) -> tuple[Any, Any, common.Data]:
    """The trained model, the rows of its training, and the data."""
    data, net = common.digits(options), common.model(options)
    optimizer = common.optimizer(net)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Digits(
            model=net,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=options.epochs,
                per_device_train_batch_size=common.BATCH,
                max_grad_norm=0.0,
                seed=options.seed,
                data_seed=options.seed,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            data_collator=named,
            train_dataset=TensorDataset(*data.train),
            optimizers=(optimizer, common.scheduler(optimizer, options)),
        )
        trainer.remove_callback(PrinterCallback)  # which would print each row
        callback = EquivarianceCallback(trainer, **options.callback(data))
        trainer.add_callback(callback)
        trainer.train()
    return net, callback.report(), data


def main() -> None:
    """The command line."""
    options = common.asked(__doc__, model="vit")
    logging.set_verbosity_error()
    net, run, data = train(options)
    print(run)
    print(common.final_table(net, run, data))


if __name__ == "__main__":
    main()
