"""A trained model in memory: load one, convert a foreign one, draw masks of arrays and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard, model_path
from contorno.checkpoint import load_model, save_model
from contorno.config import Preprocessing, build
from contorno.data.labels import Labels, classify
from contorno.engines.pytorch import PyTorchEngine
from contorno.errors import ModelFileError
from contorno.files import sha256
from contorno.hardware import Hardware, choose
from contorno.models import Segmenter
from contorno.models.foreign import load_foreign
from contorno.predict import probability_map, read_picture

Array = NDArray[Any]
PathLike = str | Path
_FOREIGN = (".pt", ".pth")


@dataclass(frozen=True)
class Model:
    """A trained model, ready to draw masks.

    Args:
        segmenter: the network with its preprocessing.
        card: what the model file says of itself.
        hardware: where it runs.
        path: the file it came from.
    """

    segmenter: Segmenter
    card: ModelCard
    hardware: Hardware
    path: Path

    @cached_property
    def engine(self) -> PyTorchEngine:
        return PyTorchEngine(self.segmenter, self.hardware)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path.read_bytes())

    def about(self) -> dict[str, Any]:
        """What results say of the model."""
        network = self.card.network
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "architecture": f"{network.architecture} {network.up} {list(network.widths)}",
            "parameters": sum(p.numel() for p in self.segmenter.network.parameters()),
        }

    def predict(self, image: Array | PathLike | Sequence[PathLike]) -> Array:
        """The mask (H, W) of a picture, in the values of the masks that the model learnt from.

        Where classes overlap, (H, W, K): the mask of each class.

        Args:
            image: array (H, W[, C]) of the type the model was trained on, or a file, or the files
                of its channels.

        Raises:
            ImageError: it cannot be read, or does not fit the model.
        """
        labels = self.card.labels
        classes = classify(self._map(image), labels, self.card.threshold)
        if not labels.multilabel:
            return labels.written(classes)
        layers = zip(labels.parts, labels.layers(classes), strict=True)
        return np.stack([part.written(layer.astype(np.uint8)) for part, layer in layers], axis=-1)

    def probabilities(self, image: Array | PathLike | Sequence[PathLike]) -> Array:
        """Probability of foreground (H, W) float32, 0..1; (H, W, K) for a model of K classes.

        Args:
            image: array (H, W[, C]) of the type the model was trained on, or a file, or the files
                of its channels.

        Raises:
            ImageError: it cannot be read, or does not fit the model.
        """
        result = self._map(image)
        return result[0] if len(result) == 1 else np.moveaxis(result, 0, -1)

    def _map(self, image: Array | PathLike | Sequence[PathLike]) -> Array:
        if isinstance(image, (str, Path)):
            image = [image]
        if isinstance(image, Sequence):
            files = [Path(file) for file in image]
            return probability_map(
                self.engine, self.card, read_picture(self.card, files), name=str(files[0])
            )
        return probability_map(self.engine, self.card, np.asarray(image))


def load(path: PathLike, *, device: str = "auto", precision: str = "auto") -> Model:
    """Load a model.

    Args:
        path: a model file, a run folder, or a foreign `.pt`/`.pth` checkpoint (see `convert`).
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16" or "32" (exact float32).

    Raises:
        ModelFileError: missing, damaged or of an unknown layout.
    """
    hardware = choose(device=device, precision=precision)
    path = Path(path)
    if path.suffix.lower() in _FOREIGN:
        return Model(*_foreign(path), hardware, path)
    return Model(*load_model(path), hardware, model_path(path))


def convert(
    path: PathLike, out: PathLike, *, size: int | None = None, overwrite: bool = False
) -> Model:
    """Turn a foreign checkpoint (U-Net notebook or milesial/Pytorch-UNet) into a model file.

    Args:
        path: `.pt`/`.pth` file of weights.
        out: model file to write.
        size: edge that pictures are resized to before the network; None keeps their own size.
        overwrite: replace an existing file.

    Raises:
        ModelFileError: not such a checkpoint, or keys left over; or `out` exists.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise ModelFileError(f"{out}: exists already; choose another --out, or --overwrite")
    segmenter, card = _foreign(Path(path), size=size)
    save_model(out, segmenter, card)
    return load(out)


def _foreign(path: Path, *, size: int | None = None) -> tuple[Segmenter, ModelCard]:
    foreign = load_foreign(path)
    config = foreign.config
    preprocessing = build(
        Preprocessing,
        "preprocessing",
        mean=(0.0,) * config.in_channels,
        std=(255.0,) * config.in_channels,
        size=None if size is None else (size, size),
        output=foreign.output,
    )
    classes = max(2, config.out_channels)
    values = (
        foreign.mask_values
        if len(foreign.mask_values) == classes
        else ((0, 255) if classes == 2 else tuple(range(classes)))
    )
    labels = Labels(
        values=values,
        names=tuple(f"class {index}" for index in range(classes)),
        lookup=tuple((value, index) for index, value in enumerate(values)),
        note=f"values {', '.join(map(str, values))}",
    )
    card = ModelCard(
        network=config,
        preprocessing=preprocessing,
        labels=labels,
        provenance={"converted_from": foreign.layout},
    )
    return Segmenter(foreign.network, preprocessing).eval(), card
