"""ensemble.json: what makes a run folder of folds a model, with the files that it is made of.

Each fold's model file is a model of its own; this document says which belong together, what holds
for their mean, and what was chosen for it. Read without weights and without PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contorno import __version__
from contorno.card import ModelCard, Tuned
from contorno.errors import ModelFileError
from contorno.files import sha256, write_text

NAME = "ensemble.json"
PLAN = "folds.json"


class Member(BaseModel):
    """A model of an ensemble.

    Args:
        file: its model file, from the folder of the ensemble.
        sha256: of that file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str


class EnsembleCard(BaseModel):
    """What an ensemble says of itself.

    Args:
        card: what holds for the mean: how pictures are read, labels, and what was tuned, but for
            the temperature; network, mean and spread are those of the first member.
        temperature: the logits of every member are divided by it before the mean; what was tuned
            for a member alone is not used.
        members: the models.
        contorno: version that wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    card: ModelCard
    temperature: float = Field(1.0, gt=0)
    members: tuple[Member, ...] = Field(min_length=1)
    contorno: str = __version__


def pooled_card(cards: Sequence[ModelCard]) -> ModelCard:
    """One card for the mean of several models, with nothing tuned and all that was shown to any."""
    first, each = cards[0], [card.preprocessing for card in cards]
    ranges = [one.range for one in each if one.range is not None]
    span = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
    dimmest = min(one.dimmest for one in each)
    preprocessing = first.preprocessing.model_copy(update={"range": span, "dimmest": dimmest})
    return first.model_copy(update={"preprocessing": preprocessing, "tuned": Tuned()})


def write_ensemble(folder: Path, card: ModelCard, files: Sequence[Path]) -> Path:
    """Write `NAME` of a folder.

    Args:
        folder: the folder of the ensemble.
        card: what holds for the mean, with the temperature among what was tuned.
        files: model files below the folder.
    """
    after = card.tuned.model_copy(update={"temperature": 1.0})
    whole = EnsembleCard(
        card=card.model_copy(update={"tuned": after}),
        temperature=card.tuned.temperature,
        members=tuple(
            Member(file=file.relative_to(folder).as_posix(), sha256=sha256(file.read_bytes()))
            for file in files
        ),
    )
    write_text(folder / NAME, whole.model_dump_json(indent=1))
    return folder / NAME


def find_ensemble(path: Path) -> Path | None:
    """The ensemble.json meant by `path`: itself, or the one in a run folder; None: no ensemble.

    Raises:
        ModelFileError: a run of folds that is not done.
    """
    if path.name == NAME and path.is_file():
        return path
    if (path / NAME).is_file():
        return path / NAME
    if (path / PLAN).is_file():
        raise ModelFileError(
            f"{path}: a run of folds that is not done, so its models are not one yet; expected "
            f"{NAME}. Go on with contorno train --resume {quote(str(path))}, or name one fold, "
            f"{path / 'fold1'}"
        )
    return None


def read_ensemble(path: Path) -> EnsembleCard:
    """Read ensemble.json.

    Raises:
        ModelFileError: damaged, or of a newer version.
    """
    try:
        return EnsembleCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: damaged, or of a newer version than contorno {__version__} "
            f"({error.error_count()} value(s) not understood); contorno train --resume "
            f"{quote(str(path.parent))} makes it again"
        ) from None
