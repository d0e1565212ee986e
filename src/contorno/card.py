"""What a model file says of itself, read without its weights and without PyTorch.

A model file is safetensors: the weights, and one JSON document, the card, in its metadata. It is
all that predict, evaluate and export need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from contorno import __version__
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.labels import Labels
from contorno.errors import ModelFileError

CARD = "contorno"  # the one key of the metadata: with one, the bytes are the same every time


class ModelCard(BaseModel):
    """What a model file says of itself.

    Args:
        network, preprocessing: what to build before the weights are loaded.
        labels: what masks look like.
        threshold: probability from which a pixel is foreground (two classes).
        provenance: how the model came about; no times or paths, so that equal runs give
            equal files.
        contorno: version that wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkConfig
    preprocessing: Preprocessing
    labels: Labels = Labels()
    threshold: float = 0.5
    provenance: dict[str, Any] = {}
    contorno: str = __version__


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
            f"{path}: its card cannot be read by contorno {__version__}; it may come from a newer "
            f"version ({error.error_count()} value(s) not understood)"
        ) from None


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
