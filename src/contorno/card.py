"""What a model file says of itself, read without its weights and without PyTorch.

A model file is safetensors: the weights, and one JSON document, the card, in its metadata. It is
all that predict, evaluate and export need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from safetensors import SafetensorError, safe_open

from contorno import __version__
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.labels import Labels, require_drawable
from contorno.errors import ModelFileError

_SHOWN = 8  # values that are not understood
CARD = "contorno"  # the one key of the metadata: with one, the bytes are the same every time


class Gain(BaseModel):
    """What one choice of `tune` is worth, measured on validation images.

    Args:
        choice: in words, what was chosen: "threshold", "smallest object of nucleus" ...
        measure: "Dice", mean per image, or "NLL", the negative log-likelihood of a pixel in nats.
        default, value: what it is without tuning, and what was found best on all images.
        before, after: the measure on all images with either; choices before this one are applied.
        confirmed: change of the measure on each half of the images with what was chosen on the
            other half; for what has no value to choose, on each half.
        images: on how many.
        kept: whether it is used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choice: str
    measure: Literal["Dice", "NLL"] = "Dice"
    default: float
    value: float
    before: float
    after: float
    confirmed: tuple[float, float]
    images: int
    kept: bool


class Tuned(BaseModel):
    """What was chosen on validation data; the defaults do nothing.

    Numbers of classes stand in order of `Labels.scored`, or there is one for all of them.

    Args:
        temperature: logits are divided by it before anything else.
        thresholds: probability from which a pixel is of a class; not used where classes exclude
            each other, for there the largest probability decides.
        smallest: objects of fewer pixels are removed.
        holes: holes of up to so many pixels are filled.
        tta: whether probabilities are averaged over mirrored and turned pictures.
        gains: what each choice that was tried is worth.
        rule: in words, when a choice is kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.5,)
    smallest: tuple[NonNegativeInt, ...] = (0,)
    holes: tuple[NonNegativeInt, ...] = (0,)
    tta: bool = False
    gains: tuple[Gain, ...] = ()
    rule: str = ""


class Familiar(BaseModel):
    """What the training images are like: smallest and largest value of any, per channel.

    Args:
        brightness: mean of an image, in file units.
        contrast: its standard deviation.
        sharpness: see `facts.sharpness`.
        images: how many were looked at.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    brightness: tuple[tuple[float, float], ...]
    contrast: tuple[tuple[float, float], ...]
    sharpness: tuple[tuple[float, float], ...]
    images: int


class ModelCard(BaseModel):
    """What a model file says of itself.

    Args:
        network, preprocessing: what to build before the weights are loaded.
        labels: what masks look like.
        tuned: what is done to probabilities, and with which threshold masks are drawn.
        familiar: what the training images are like; None where nobody looked.
        provenance: how the model came about; no times or paths, so that equal runs give
            equal files.
        contorno: version that wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkConfig
    preprocessing: Preprocessing
    labels: Labels = Labels()
    tuned: Tuned = Tuned()
    familiar: Familiar | None = None
    provenance: dict[str, Any] = {}
    contorno: str = __version__

    @model_validator(mode="before")
    @classmethod
    def _one_threshold(cls, values: Any) -> Any:
        """Cards written before there was anything tuned had one threshold for all classes."""
        if isinstance(values, dict) and "threshold" in values and "tuned" not in values:
            others = {name: value for name, value in values.items() if name != "threshold"}
            return others | {"tuned": {"thresholds": (values["threshold"],)}}
        return values

    @field_validator("preprocessing")
    @classmethod
    def _one_of_each_channel(cls, given: Preprocessing, info: ValidationInfo) -> Preprocessing:
        """Channels each have a value, or all have the same."""
        if (given.low is None) != (given.high is None):
            raise ValueError("low and high must be given together")
        if "network" in info.data:
            channels = info.data["network"].in_channels
            for name in ("mean", "std", "low", "high"):
                _require_one_or_each(name, getattr(given, name), channels, "channel")
        return given

    @field_validator("labels")
    @classmethod
    def _masks_can_be_drawn(cls, labels: Labels, info: ValidationInfo) -> Labels:
        require_drawable(labels)
        if "network" in info.data:
            _require_outputs(labels, info.data["network"].out_channels)
        return labels

    @field_validator("tuned")
    @classmethod
    def _one_of_each_class(cls, tuned: Tuned, info: ValidationInfo) -> Tuned:
        if "labels" in info.data:
            classes = len(info.data["labels"].scored)
            for name in ("thresholds", "smallest", "holes"):
                _require_one_or_each(name, getattr(tuned, name), classes, "scored class")
        return tuned

    @field_validator("familiar")
    @classmethod
    def _span_of_each_channel(cls, seen: Familiar | None, info: ValidationInfo) -> Familiar | None:
        if seen is not None and "network" in info.data:
            channels = info.data["network"].in_channels
            for name in ("brightness", "contrast", "sharpness"):
                _require_one_or_each(name, getattr(seen, name), channels, "channel")
        return seen

    @property
    def exclusive(self) -> bool:
        """Whether a pixel's probabilities add up to 1, so that the largest one decides."""
        return self.network.out_channels > 1 and not self.labels.multilabel


def _require_one_or_each(name: str, values: Sequence[Any] | None, count: int, what: str) -> None:
    if values is not None and len(values) not in (1, count):
        raise ValueError(f"{name} of {len(values)} value(s) for {count} {what}(s)")


def _require_outputs(labels: Labels, outputs: int) -> None:
    """One output for each class; where there are two classes, one of them may do for both."""
    each = len(labels.names)
    if outputs not in (labels.channels, each):
        raise ValueError(f"{each} classes ({', '.join(labels.names)}) for {outputs} output(s)")


def read_card(path: Path) -> ModelCard:
    """The card of a model file.

    Raises:
        ModelFileError: damaged, no model of ours, or of a newer version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if CARD not in metadata:
            raise ModelFileError(f"{path}: safetensors, but not a contorno model (no card)")
        return ModelCard.model_validate_json(metadata[CARD])
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a model file, or damaged ({error})") from None
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: its card cannot be read by contorno {__version__}; it may come from another "
            f"version ({error.error_count()} value(s) not understood), or was changed by hand or "
            f"damaged: {_words(error)}"
        ) from None


def _words(error: ValidationError) -> str:
    """Which values were not understood, and why."""
    found = [
        ": ".join(
            [
                *filter(None, [".".join(map(str, item["loc"]))]),
                item["msg"].removeprefix("Value error, "),
            ]
        )
        for item in error.errors(include_input=False, include_url=False)
    ]
    return "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" * (len(found) > _SHOWN))


def is_model(path: Path) -> bool:
    """Whether `path` is a model file of ours, or a run folder."""
    if path.is_dir():
        return any((path / name).exists() for name in ("model.safetensors", "ensemble.json"))
    try:
        with safe_open(path, framework="numpy") as file:
            return CARD in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def model_path(path: Path) -> Path:
    """The model file meant by `path`: itself, or model.safetensors in a run folder.

    Raises:
        ModelFileError: there is none.
    """
    if path.is_dir():
        inner = path / "model.safetensors"
        if not inner.exists():
            raise ModelFileError(
                f"{path}: a folder without model.safetensors; expected a run folder or a model file"
            )
        return inner
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such model file or run folder")
    return path
