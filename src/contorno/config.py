"""What a run can be told, validated; read from and written to config.toml.

Every value that was chosen for the user stands in `reasons` under its dotted name. How values are
chosen is left to `recipes`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from contorno.errors import ConfigError, Problem
from contorno.files import write_text

Loss = Literal["mse", "bce", "ce", "dice", "bce+dice", "ce+dice", "focal", "tversky"]
Up = Literal["transposed", "bilinear"]
Spread = Annotated[FiniteFloat, Field(gt=0)]
Edge = Annotated[int, Field(ge=1, le=65_536)]


class Section(BaseModel):
    """A section of config.toml: unknown names are errors, values are fixed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Where the pairs come from and how they are parted."""

    images: str
    masks: str | dict[str, str] | None = None
    suffix: str | None = None
    files: str | None = None
    channels: tuple[str, ...] = ()
    pages: bool = False
    validation: float | None = Field(None, gt=0, lt=1)
    validation_files: str | None = None
    group: str | None = None
    foreground: str | None = None
    classes: str | None = None
    ignore: str | None = None


class NetworkConfig(Section):
    """Name and arguments of a network in `models.ARCHITECTURES`, or with `encoder`, `EncoderUNet`.

    With an encoder, `patch` is how many times less wide than the picture its first map is.
    """

    architecture: str = "UNet"
    in_channels: int = Field(3, ge=1)
    out_channels: int = Field(1, ge=1)
    widths: tuple[PositiveInt, ...] = Field((64, 128, 256, 512, 1024), min_length=1)
    up: Up = "transposed"
    activation: Literal["sigmoid", "softmax"] | None = None
    patch: int = Field(1, ge=1)
    encoder: str | None = None


class Preprocessing(Section):
    """What is done to a picture before the network, and to its output after; part of the model.

    Args:
        mean, std: per channel, in the units of the image file.
        normalise: by these ("set"), or each whole picture by its own mean and spread ("image").
        low, high: per channel, values that are cut off before; None: nothing is.
        range: smallest and largest value of the training images, None if unknown.
        dimmest: smallest of their largest values.
        size: (height, width) that every picture is resized to, or None for its own size.
        dtype: type of the images that the model was made for.
        output: how the network's output becomes probabilities; "clamp" cuts to 0..1.
        channels: what the stems of a picture's files end in, where each channel has its own.
        pages: whether the pages of a TIFF are channels.
        upright: whether rotations that EXIF data ask for are applied.
    """

    mean: tuple[FiniteFloat, ...] = (0.0,)
    std: tuple[Spread, ...] = (255.0,)
    normalise: Literal["set", "image"] = "set"
    low: tuple[FiniteFloat, ...] | None = None
    high: tuple[FiniteFloat, ...] | None = None
    range: tuple[float, float] | None = None
    dimmest: float = 0.0
    size: tuple[Edge, Edge] | None = None
    dtype: str = "uint8"
    output: Literal["sigmoid", "softmax", "clamp", "identity"] = "sigmoid"
    channels: tuple[str, ...] = ()
    pages: bool = False
    upright: bool = False


class TrainingConfig(Section):
    """The recipe, in numbers."""

    recipe: Literal["classic", "auto"] = "auto"
    loss: Loss = "bce+dice"
    optimizer: Literal["adam", "adamw", "muon"] = "adamw"
    learning_rate: FiniteFloat = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(4, ge=1)
    crop: int | None = Field(None, ge=16)
    steps_per_epoch: int = Field(1, ge=1)
    validate_every: int = Field(1, ge=1)
    validate_images: int | None = Field(None, ge=1)
    augment: bool = True
    patience: int = Field(0, ge=0)
    tune: bool = True
    seed: int = Field(0, ge=0, le=2**62)  # TOML holds 63 bits
    time: float | None = Field(None, gt=0)
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["bf16", "32"] = "32"


class Config(Section):
    """Everything that decides a run, and why each automatic choice was made."""

    data: DataConfig
    network: NetworkConfig
    preprocessing: Preprocessing
    training: TrainingConfig
    reasons: dict[str, str] = {}

    def replace(self, section: str, reason: str = "", **values: Any) -> Config:
        """A copy with `values` of one section changed (and validated) for `reason`."""
        data = self.model_dump()
        data[section] |= values
        data["reasons"] |= {f"{section}.{name}": reason for name in values if reason}
        return Config.model_validate(data)

    def write(self, path: Path) -> None:
        """Write as TOML; values that are None are left out."""
        write_text(path, tomli_w.dumps(_without_none(self.model_dump(mode="json"))))


def build(section: type[BaseModel], where: str, **values: Any) -> Any:
    """Make a section from the user's values.

    Raises:
        ConfigError: one problem for each value that cannot work.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise _config_error(error.errors(), where) from None


def sound(where: str, **values: Mapping[str, Any]) -> dict[str, Any]:
    """Some values of some sections of a `Config`, as these hold them, before others are known.

    The sections are those that have a default for everything.

    Returns:
        The values by their names, of the types that config.toml has: 3 for "3", 3.0 or NumPy's 3.

    Raises:
        ConfigError: one problem for each value that could not work, whatever the others are.
    """
    errors: list[Any] = []
    held: dict[str, Any] = {}
    for name, given in values.items():
        section: Any = Config.model_fields[name].annotation
        try:
            made = section.model_validate(given)
            held |= {field: getattr(made, field) for field in given}
        except ValidationError as error:
            of_given = (
                item for item in error.errors() if item["loc"][:1] and item["loc"][0] in given
            )
            errors += [item | {"loc": (name, *item["loc"])} for item in of_given]
    if errors:
        raise _config_error(errors, where)
    return held


def read_config(path: Path) -> Config:
    """Read config.toml.

    Raises:
        ConfigError: missing, not TOML, or with values that cannot work (all are listed).
    """
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise _config_error(error.errors(), str(path)) from None


def parse_duration(given: float | str) -> float:
    """Seconds of a number of seconds, or of a text with its unit: "90s", "20m", "2h".

    Raises:
        ConfigError: not such a duration, or not positive.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    text = str(given).strip().lower()
    unit = text[-1:] if text[-1:] in units else ""
    try:
        seconds = float(text.removesuffix(unit)) * units[unit or "s"]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"time {text!r} is no duration; write 90s, 20m or 2h")
    if isinstance(given, str) and not unit:  # many who write 20 mean minutes
        raise ConfigError(f"time {text!r} has no unit; write {text}s, {text}m or {text}h")
    return seconds


def _config_error(errors: Sequence[Any], where: str) -> ConfigError:
    problems = []
    for item in errors:
        name = ".".join(str(part) for part in item["loc"]) or where
        if item["type"] == "extra_forbidden":
            what, expected = "no value has this name", "a name that this version writes"
            fix = "correct or remove it; what another version began, go on with that version"
        elif item["type"] == "missing":
            what, expected, fix = "it is not there", "a value or a section", "put it back"
        else:
            what, fix = f"{item['input']!r}", "change this value"
            expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        problems.append(Problem(name, what, expected, fix))
    return ConfigError(f"{where}: values that cannot work", problems)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
