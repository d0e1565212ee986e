"""One run: model, optimiser and position; a step, a validation, save and restore.

Every random choice comes from (seed, epoch, step), so a run's state is its weights, its optimiser
and a position. The order in which these things happen is `train`'s.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contorno.card import ModelCard
from contorno.checkpoint import (
    flatten,
    has_state,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_model,
    save_state,
    unflatten,
)
from contorno.config import Config, TrainingConfig
from contorno.data.augment import augment
from contorno.data.batches import Batch, Sampler
from contorno.data.dataset import Dataset
from contorno.doubt import familiar
from contorno.engines import whole_image
from contorno.engines.pytorch import PyTorchEngine, out_of_memory
from contorno.errors import ModelFileError, TrainingError
from contorno.finish import finish
from contorno.hardware import Hardware, keep_memory, use
from contorno.losses import loss_function, mse, targets
from contorno.metrics import mean_dice
from contorno.models import EncoderUNet, Segmenter, build_network
from contorno.muon import Muon
from contorno.progress import warn
from contorno.runfolder import digests_of, refuse_if_changed
from contorno.runlog import LOG, trim_log
from contorno.schedule import Position, learning_rate
from contorno.signals import StopRequest

Array = NDArray[Any]


class Validation(NamedTuple):
    """Means over the validation images.

    Args:
        dice: of each image.
        error: mean squared difference of probabilities and truth.
        drawn, true: share of the pixels that are foreground, in the masks drawn and those given.
    """

    dice: float
    error: float
    drawn: float
    true: float


class Trainer:
    """One run: model, optimiser and position.

    Args:
        config: what to do.
        training, validation: the two parts of the data.
        hardware: where.
        run: folder of the run.
        began: `time.monotonic()` from which the time of a run counts; now when None.
    """

    def __init__(
        self,
        config: Config,
        training: Dataset,
        validation: Dataset,
        hardware: Hardware,
        run: Path,
        *,
        began: float | None = None,
    ) -> None:
        from lightning_fabric import Fabric

        self.config, self.training, self.validation = config, training, validation
        self.hardware, self.run = hardware, run
        recipe = config.training
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the choice was announced
        self.fabric = Fabric(
            accelerator=hardware.accelerator, devices=1, precision=hardware.precision
        )
        use(hardware)
        if hardware.accelerator == "cpu":
            keep_memory()
        torch.manual_seed(recipe.seed)
        self.segmenter = Segmenter(build_network(config.network), config.preprocessing)
        self.segmenter.to(self.fabric.device).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        self.network, self.optimizer = self.fabric.setup(
            self.segmenter.network, _optimizer(self.segmenter, recipe)
        )
        self.engine = PyTorchEngine(self.segmenter, hardware)
        self.sampler = Sampler(
            training,
            recipe.batch_size,
            recipe.crop,
            recipe.steps_per_epoch,
            config.preprocessing,
            recipe.seed,
        )
        self.position = Position(epochs=recipe.epochs, micro_batch=recipe.batch_size)
        self.card = ModelCard(
            network=config.network,
            preprocessing=config.preprocessing,
            labels=training.labels,
            familiar=familiar(training),
        )
        self.loss = loss_function(recipe.loss, exclusive=self.card.exclusive)
        self.saved_at, self.save_took = -math.inf, 0.0
        self.began = time.monotonic() if began is None else began

    def fetch(self) -> None:
        """Fetch the weights that the network's encoder begins with, if it does."""
        network = self.segmenter.network
        if isinstance(network, EncoderUNet):
            network.load_pretrained()

    # One step

    def step(self, batch: Batch) -> float:
        """Forward, backward and update on one batch; its loss."""
        recipe, position = self.config.training, self.position
        images, masks = self.normalised(batch)
        if recipe.augment:
            rng = self.sampler.rng(position.epoch, position.step)
            images, masks = augment(images, masks, rng=rng)
        position.learning_rate = learning_rate(recipe, position)
        for group in self.optimizer.param_groups:
            group["lr"] = position.learning_rate
        self.network.train()
        loss = self.gradients(images, masks)
        norm = _gradient_norm(self.segmenter)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._not_finite(batch, loss)
        self.optimizer.step()
        return loss

    def normalised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images as the network wants them, and masks, on the device.

        Rounded to what the network computes in, before anything else is done to them: the same
        picture then trains the same model, whether it comes as 8 bits or 16.
        """
        images, masks = self.fabric.to_device((batch.images, batch.masks))
        images = self.segmenter.normalise(images)
        return (images.bfloat16().float() if self.hardware.bf16 else images), masks

    def gradients(self, images: Tensor, masks: Tensor) -> float:
        """Fill the gradients, in pieces where memory is short; the batch's mean loss.

        Args:
            images: normalised, (N, C, h, w).
            masks: class maps, (N, 1, h, w).
        """
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                total = 0.0
                for start in range(0, len(images), self.position.micro_batch):
                    piece = slice(start, start + self.position.micro_batch)
                    output = self.network(images[piece])
                    share = len(output) / len(images)
                    target, valid = self.targets(masks[piece])
                    loss = self.loss(output.float(), target, valid) * share
                    self.fabric.backward(loss)
                    total += loss.item()
                return total
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            self._halve()

    def targets(self, masks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class maps (N, 1, h, w) as the loss wants them; see `losses.targets`."""
        labels = self.training.labels
        return targets(
            masks, labels.channels, multilabel=labels.multilabel, ignore=bool(labels.ignored)
        )

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.position.micro_batch == 1:
            raise TrainingError(
                "out of memory with one example at a time. Use a smaller --crop or --size, smaller "
                f"--widths, or --device cpu; the best model so far is in {self.run}"
            )
        self.position.micro_batch = -(-self.position.micro_batch // 2)
        warn(
            f"Out of memory: going on with {self.position.micro_batch} example(s) at a time, "
            f"accumulated to batches of {self.config.training.batch_size}; batch normalisation "
            "sees the smaller ones."
        )

    @property
    def rate(self) -> float:
        """Training images a second in this epoch."""
        done = self.position.step * self.config.training.batch_size
        return done / max(self.position.seconds, 1e-9)

    @property
    def spent(self) -> float:
        """Seconds since the run's command began, those before it was resumed included."""
        return self.position.spent + time.monotonic() - self.began

    def _not_finite(self, batch: Batch, loss: float) -> None:
        best = (
            f"the best model so far (epoch {self.position.best_epoch}) is in {self.run}"
            if self.position.best_epoch
            else "no model was kept yet"
        )
        raise TrainingError(
            f"the loss became {loss} at epoch {self.position.epoch + 1}, step "
            f"{self.position.step + 1}, on: {', '.join(batch.names)}. Look at these files; if they "
            f"are sound, use a smaller --learning-rate or --precision 32; {best}"
        )

    # Validation and what is kept

    def validate(self, stop: StopRequest) -> Validation | None:
        """Draw the masks of whole images and score them; None when stopped."""
        scores, errors, drawn, true = [], [], [], []
        labels = self.training.labels
        for index in self.validating():
            if stop.requested:
                return None
            image, truth = self.validation.read(index)
            valid = labels.valid(truth)
            found = whole_image(self.engine, image)  # (K, H, W)
            classes = finish(found, self.card)
            layers = zip(labels.layers(truth), labels.layers(classes), strict=True)
            scores.append(mean_dice(layers, valid))
            errors.append(self._squared_error(found, truth))
            drawn.append(np.mean(classes > 0))
            true.append(np.mean((truth > 0) if valid is None else (truth > 0) & valid))
        return Validation(*(float(np.mean(each)) for each in (scores, errors, drawn, true)))

    def validating(self) -> list[int]:
        """Which images a validation looks at, always the same ones."""
        count = len(self.validation)
        some = self.config.training.validate_images or count
        order = np.random.default_rng(self.config.training.seed).permutation(count)
        return sorted(order[:some].tolist())

    def _squared_error(self, found: Array, truth: Array) -> float:
        """Mean squared difference of probabilities (K, H, W) and the truth, where it counts."""
        masks = torch.from_numpy(np.ascontiguousarray(truth))[None, None].float()
        target, valid = self.targets(masks)
        return float(mse(torch.from_numpy(found)[None], target, valid))

    def keep_if_best(self, dice: float, error: float) -> bool:
        """Write the model file if Dice is the best, or as good with a smaller error."""
        position = self.position
        if (dice, -error) <= (position.best, -position.best_loss):
            return False
        position.best, position.best_loss = dice, error
        position.best_epoch = position.epoch + 1
        provenance = {
            "training": self.config.training.model_dump(mode="json"),
            "data": self.digests["data"],
            "training_images": len(self.training),
            "validation_images": len(self.validation),
            "epoch": position.best_epoch,
            "validation_dice": dice,
        }
        card = self.card.model_copy(update={"provenance": provenance})
        save_model(self.run / "model.safetensors", self.segmenter, card)
        return True

    def save(self) -> None:
        """Write the state of the run."""
        self.position.saves += 1
        self.position.spent, self.began = self.spent, time.monotonic()
        tensors = flatten("model", self.segmenter.state_dict())
        tensors |= flatten("optimizer", optimizer_tensors(self.optimizer.optimizer))
        meta = {
            "number": self.position.saves,
            "position": asdict(self.position),
            **self.digests,
        }
        began = time.monotonic()
        save_state(self.run / "state", tensors, meta)
        self.saved_at = time.monotonic()
        self.save_took = self.saved_at - began

    def unsaved(self) -> float:
        """Seconds since the last save."""
        return time.monotonic() - self.saved_at

    def save_is_due(self) -> bool:
        """After every epoch, unless epochs are so short that saving would take 5% of the time."""
        return self.unsaved() > 20 * self.save_took

    @property
    def digests(self) -> dict[str, str]:
        """Of configuration and data, without which a run cannot be continued exactly."""
        return digests_of(self.config, self.training, self.validation)

    def restore(self, begun: Mapping[str, str] | None = None) -> None:
        """Continue from the newest whole state, or from the beginning if none was ever written.

        Args:
            begun: `digests` of the run when it was begun; None: not known.

        Raises:
            ModelFileError: all states are damaged, or gone.
            ConfigError: configuration or data are not those of the state, or of the beginning.
        """
        if not has_state(self.run / "state"):
            self._refuse_if_trained()
            refuse_if_changed(self.run, self.digests, begun or {})
            self.fetch()
            return
        tensors, meta, skipped = load_state(self.run / "state")
        for words in skipped:
            warn(words)
        refuse_if_changed(self.run, self.digests, meta)
        try:
            position = Position(**meta["position"])
        except TypeError:  # a run of another version had other fields
            raise ModelFileError(
                f"{self.run / 'state'}: of another version of contorno; start a new run"
            ) from None
        self.segmenter.load_state_dict(unflatten("model", tensors))
        restore_optimizer(self.optimizer.optimizer, unflatten("optimizer", tensors))
        self.position = position
        trim_log(self.run / LOG, self.position.epoch)

    def _refuse_if_trained(self) -> None:
        """Raise if a model or an epoch stands in the folder: a state was written before both."""
        model, log = self.run / "model.safetensors", self.run / LOG
        if not model.exists() and not (log.exists() and log.stat().st_size):
            return
        usable = f"; {model} is left as it is and can be used" if model.exists() else ""
        raise ModelFileError(
            f"{self.run / 'state'}: no state to resume from, though this run was trained before; "
            f"put the folder back, or start a new run with another --out{usable}"
        )


def _optimizer(module: nn.Module, recipe: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "muon":
        return Muon(module, lr=rate, weight_decay=decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(module.parameters(), lr=rate, weight_decay=decay, fused=True)


def _gradient_norm(module: nn.Module) -> float:
    """Norm of all gradients together."""
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    return float(nn.utils.get_total_norm(gradients))
