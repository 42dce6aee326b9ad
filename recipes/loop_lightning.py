"""The training callback under Lightning's Trainer: one entry of `callbacks=`.

    python recipes/loop_lightning.py                  # a conv net
    python recipes/loop_lightning.py --model vit      # the ViT of recipes/loop_transformers.py
    python recipes/loop_lightning.py --logs runs      # curves for `tensorboard --logdir runs`

The batches and the steps of `recipes/loop_plain.py`, and its table. About twenty seconds on one
core of a CPU; `--quick` takes a few.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from loops import common
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from equiwrap.integrations.lightning import EquivarianceCallback


class Digits(pl.LightningModule):
    """A LightningModule as people write them: nothing in it knows of the callback."""

    def __init__(self, options: common.Options) -> None:
        super().__init__()
        self.options, self.net = options, common.model(options)

    def training_step(self, batch: common.Pair, index: int) -> Tensor:
        return cross_entropy(common.logits(self.net(batch[0])), batch[1])

    def validation_step(self, batch: common.Pair, index: int) -> None:
        found = common.logits(self.net(batch[0])).argmax(1)
        self.log("accuracy", (found == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        held = common.optimizer(self.net)
        rate = {"scheduler": common.scheduler(held, self.options), "interval": "step"}
        return {"optimizer": held, "lr_scheduler": rate}


def train(options: common.Options, logs: str = "") -> tuple[nn.Module, Any, common.Data]:
    """The trained model, the rows of its training, and the data."""
    data, module = common.digits(options), Digits(options)
    callback = EquivarianceCallback("net", **options.callback(data))
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[callback],
        accelerator="cpu",
        logger=TensorBoardLogger(logs) if logs else False,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    held = DataLoader(TensorDataset(*data.val), batch_size=300)
    trainer.fit(module, common.loader(data, options), held)
    return module.net, callback.report(), data


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="conv", choices=["conv", "vit"])
    parser.add_argument("--logs", default="", help="a folder for TensorBoard")
    options = common.asked(__doc__, parser)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*(num_workers|LeafSpec).*")
    net, run, data = train(options, parser.parse_args().logs)
    print(run)
    print(common.final_table(net, run, data))


if __name__ == "__main__":
    main()
