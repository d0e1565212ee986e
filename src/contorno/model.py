"""A trained model in memory: load one, convert a foreign one, draw masks of arrays and files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard, model_path, read_card
from contorno.config import Preprocessing, build
from contorno.data.labels import Labels
from contorno.engines import Engine
from contorno.engines.artifacts import Artifacts
from contorno.engines.select import Source, open_engine, require
from contorno.errors import ModelFileError
from contorno.files import sha256
from contorno.finish import draw
from contorno.hardware import Hardware, choose
from contorno.predict import probability_map, read_picture

if TYPE_CHECKING:
    from contorno.models import Segmenter

Array = NDArray[Any]
PathLike = str | Path
_FOREIGN = (".pt", ".pth")


class Model:
    """A trained model, ready to draw masks. The weights are read when they are needed.

    Args:
        card: what the model file says of itself.
        hardware: where it runs.
        path: the file it came from.
        engine: what runs it, one of `engines.select.ENGINES`; "auto" for the fastest.
        segmenter: the network with its preprocessing, where it is not in `path`.

    Attributes:
        card, hardware, path: as given.
    """

    def __init__(
        self,
        card: ModelCard,
        hardware: Hardware,
        path: Path,
        *,
        engine: str = "auto",
        segmenter: Segmenter | None = None,
    ) -> None:
        self.card, self.hardware, self.path = card, hardware, path
        self._engine, self._segmenter = engine, segmenter

    @cached_property
    def segmenter(self) -> Segmenter:
        """The network with its preprocessing, in eval mode."""
        if self._segmenter is not None:
            return self._segmenter
        from contorno.checkpoint import load_model

        return load_model(self.path)[0]

    @cached_property
    def source(self) -> Source:
        """What engines are made of."""
        artifacts = Artifacts(self.path, self.sha256)
        return Source(self.card, self.hardware, artifacts, lambda: self.segmenter)

    @cached_property
    def engine(self) -> Engine:
        """What runs the model."""
        return open_engine(self._engine, self.source)

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
            "engine": self.engine.name,
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
        classes = draw(self._map(image), self.card)
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


def load(
    path: PathLike, *, device: str = "auto", precision: str = "auto", engine: str = "auto"
) -> Model:
    """Load a model.

    Args:
        path: a model file, a run folder, or a foreign `.pt`/`.pth` checkpoint (see `convert`).
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16" or "32" (exact float32).
        engine: "auto" for the fastest that is installed, "pytorch", "openvino", "openvino-int8" or
            "onnxruntime".

    Raises:
        ModelFileError: missing, damaged or of an unknown layout.
        ConfigError: an engine or a device that this machine lacks.
    """
    hardware = choose(device=device, precision=precision)
    require(engine, hardware)
    path = Path(path)
    if path.suffix.lower() in _FOREIGN:
        segmenter, card = _foreign(path)
        return Model(card, hardware, path, engine=engine, segmenter=segmenter)
    path = model_path(path)
    return Model(read_card(path), hardware, path, engine=engine)


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
    from contorno.checkpoint import save_model

    segmenter, card = _foreign(Path(path), size=size)
    save_model(out, segmenter, card)
    return load(out)


def _foreign(path: Path, *, size: int | None = None) -> tuple[Segmenter, ModelCard]:
    from contorno.models import Segmenter
    from contorno.models.foreign import load_foreign

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
