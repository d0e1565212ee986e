"""A trained model in memory: load one, convert a foreign one, draw masks of arrays and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contorno.card import ModelCard, is_model, model_path, read_card
from contorno.config import Preprocessing, build
from contorno.data.labels import Labels
from contorno.engines import Engine
from contorno.engines.artifacts import Artifacts
from contorno.engines.averaging import Ensemble
from contorno.engines.select import Source, open_engine, require
from contorno.ensemble import find_ensemble, read_ensemble
from contorno.errors import ModelFileError, Problem
from contorno.files import sha256
from contorno.finish import draw
from contorno.hardware import Hardware, choose
from contorno.images import ImageError
from contorno.predict import probability_map, read_picture

if TYPE_CHECKING:
    from contorno.models import Segmenter

Array = NDArray[Any]
PathLike = str | Path
_FOREIGN = (".pt", ".pth")
_MODES = {  # of Pillow's pictures whose numbers are no brightness, and what they become
    "1": "L",
    **dict.fromkeys(("P", "CMYK", "YCbCr", "HSV"), "RGB"),
}


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
        sha256: of the file.
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
        self._file = path.absolute()  # the weights are read later, maybe from another folder
        self.sha256 = sha256(path.read_bytes())
        self._engine, self._segmenter = engine, segmenter

    @cached_property
    def segmenter(self) -> Segmenter:
        """The network with its preprocessing, in eval mode.

        Raises:
            ModelFileError: the file is not the one any more that the card came from.
        """
        if self._segmenter is not None:
            return self._segmenter
        from contorno.checkpoint import load_model

        segmenter = load_model(self._file)[0]
        if sha256(self._file.read_bytes()) != self.sha256:
            raise ModelFileError(f"{self.path}: was replaced since it was loaded; load it again")
        return segmenter

    @cached_property
    def source(self) -> Source:
        """What engines are made of; not of an ensemble, but of each of its members."""
        artifacts = Artifacts(self._file, self.sha256)
        return Source(self.card, self.hardware, artifacts, lambda: self.segmenter)

    @property
    def members(self) -> tuple[Model, ...]:
        """The models whose probabilities are averaged: of a single model itself."""
        return (self,)

    @property
    def run(self) -> Path | None:
        """The run folder that the model lies in; None where its file was copied elsewhere."""
        return self._folder if (self._folder / "config.toml").exists() else None

    @property
    def _folder(self) -> Path:
        """Of its file, as it was given where that still leads there."""
        return (self.path if self.path.absolute() == self._file else self._file).parent

    @cached_property
    def engine(self) -> Engine:
        """What runs the model."""
        return self.open(self._engine)

    def open(self, engine: str, *, hardware: Hardware | None = None) -> Engine:
        """Another engine that runs the model, by its name; on its own hardware when None."""
        source = self.source if hardware is None else replace(self.source, hardware=hardware)
        return open_engine(engine, source)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process is made of: it opens an engine of its own."""
        return {key: value for key, value in vars(self).items() if key not in ("engine", "source")}

    def about(self) -> dict[str, Any]:
        """What results say of the model."""
        network = self.card.network
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "architecture": f"{network.architecture} {network.up} {list(network.widths)}"
            + (f" after {network.encoder}" if network.encoder else "")
            + f" on patches of {network.patch}" * (network.patch > 1 and not network.encoder),
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
            files = _files(image)
            return probability_map(
                self.engine, self.card, read_picture(self.card, files), name=str(files[0])
            )
        return probability_map(self.engine, self.card, _array(image))


class EnsembleModel(Model):
    """The models of the folds of a run as one: the mean of their probabilities.

    Args:
        path: its ensemble.json.
        hardware: where it runs.
        engine: what runs each of its models; see `Model`.

    Raises:
        ModelFileError: ensemble.json or a model is missing, damaged, or not the one it was.
    """

    def __init__(self, path: Path, hardware: Hardware, *, engine: str = "auto") -> None:
        about = read_ensemble(path)
        super().__init__(about.card, hardware, path, engine=engine)
        self._temperature = about.temperature
        files = [(path.parent / member.file, member.sha256) for member in about.members]
        self._members = tuple(_member(*file, hardware, engine) for file in files)

    @property
    def members(self) -> tuple[Model, ...]:
        """The models whose probabilities are averaged."""
        return self._members

    @cached_property
    def engine(self) -> Engine:
        """What runs the model: the engines of its members, which are loaded only once."""
        return self._mean([member.engine for member in self._members])

    @property
    def run(self) -> Path | None:
        """The run folder of the folds."""
        return self._folder

    def open(self, engine: str, *, hardware: Hardware | None = None) -> Engine:
        """Another engine that runs every model, by its name; on their own hardware when None."""
        return self._mean([member.open(engine, hardware=hardware) for member in self._members])

    def _mean(self, engines: Sequence[Engine]) -> Engine:
        return Ensemble(engines, temperature=self._temperature, exclusive=self.card.exclusive)

    def about(self) -> dict[str, Any]:
        """What results say of the model; its SHA-256 covers those of its members."""
        each = [member.about() for member in self._members]
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "architecture": f"mean of {len(each)} models, {each[0]['architecture']}",
            "parameters": sum(one["parameters"] for one in each),
            "engine": self.engine.name,
            "temperature": self._temperature,  # of each, before the mean
            "members": each,
        }


def _files(image: Sequence[Any]) -> list[Path]:
    """The files of a picture; a list of anything else is no picture."""
    if not image or not all(isinstance(file, (str, Path)) for file in image):
        what = f"a {type(image).__name__} of {type(image[0]).__name__}s" if image else "nothing"
        expected = "an array (H, W[, C]), a file, or the files of its channels"
        fix = "give one picture at a time, a list of lists as numpy.asarray(...)"
        raise ImageError(Problem("image", what, expected, fix))
    return [Path(file) for file in image]


def _array(image: Any) -> Array:
    """An array, a picture of Pillow, or a tensor of PyTorch of any device, as an array."""
    if isinstance(image, Image.Image) and image.mode in _MODES:
        image = image.convert(_MODES[image.mode])
    if isinstance(image, Image.Image) and image.mode == "LAB":  # Pillow alone makes no RGB of it
        what, fix = "a picture of Pillow in mode LAB", "convert it to RGB by PIL.ImageCms"
        raise ImageError(Problem("image", what, "grey values or RGB", fix))
    if hasattr(image, "detach"):
        image = image.detach().cpu()
    try:
        return np.asarray(image)
    except TypeError as error:  # a tensor of bfloat16, say
        what, expected = f"a {type(image).__name__}: {error}", "what NumPy makes an array of"
        raise ImageError(Problem("image", what, expected, "convert it to an array")) from None


def _member(file: Path, digest: str, hardware: Hardware, engine: str) -> Model:
    """A model of an ensemble, which must be the very file that the ensemble was made with."""
    if not file.is_file():
        raise ModelFileError(
            f"{file}: this model of a fold is missing, and the mean needs all of them; put the "
            "file back, or train the run again"
        )
    model = Model(read_card(file), hardware, file, engine=engine)
    if model.sha256 != digest:
        raise ModelFileError(
            f"{file}: damaged or changed since the run ended (its SHA-256 is {model.sha256[:16]}, "
            f"expected {digest[:16]}); put the file back, or train the run again"
        )
    return model


def load(
    path: PathLike, *, device: str = "auto", precision: str = "auto", engine: str = "auto"
) -> Model:
    """Load a model.

    Args:
        path: a model file, a run folder (one of folds is the mean of their models), or a foreign
            `.pt`/`.pth` checkpoint (see `convert`).
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
    if path.suffix.lower() in _FOREIGN and not path.is_dir():  # a run folder may have any name
        segmenter, card = _foreign(path)
        return Model(card, hardware, path, engine=engine, segmenter=segmenter)
    if (ensemble := find_ensemble(path)) is not None:
        return EnsembleModel(ensemble, hardware, engine=engine)
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
        ModelFileError: not such a checkpoint, a model already, or keys left over; or `out` exists,
            is the checkpoint itself, no file or named like a checkpoint.
    """
    path, out = Path(path), Path(out)
    if is_model(path):
        raise ModelFileError(f"{path}: a contorno model already, which is used as it is")
    if out.exists() and not out.is_file():
        raise ModelFileError(f"{out}: a folder, a pipe or a device; choose another --out")
    if out.exists() and not overwrite:
        raise ModelFileError(f"{out}: exists already; choose another --out, or --overwrite")
    if out.exists() and path.exists() and out.samefile(path):
        raise ModelFileError(f"{out}: the checkpoint itself, which stays; choose another --out")
    if out.suffix.lower() in _FOREIGN:  # and would be opened as one
        raise ModelFileError(
            f"{out}: a name of PyTorch checkpoints, which a model file is not; end --out in "
            ".safetensors"
        )
    from contorno.checkpoint import save_model

    segmenter, card = _foreign(path, size=size)
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
