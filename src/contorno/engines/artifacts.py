"""What engines make of a model, kept for the next time: beside the model, or in the user's cache.

A folder of artefacts belongs to the bytes of one model file: its name holds their digest, and the
folders of a model that has been replaced are removed. A folder appears whole or not at all. What
stands ready is used where it cannot be written, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contorno import __version__
from contorno.errors import ModelFileError, StorageError
from contorno.files import TEMPORARY_PREFIX, storage_error, sync


@dataclass(frozen=True)
class Artifacts:
    """The artefacts of one model file.

    Args:
        model: the file.
        digest: SHA-256 of its bytes.
    """

    model: Path
    digest: str

    @cached_property
    def places(self) -> tuple[Path, ...]:
        """MODEL.engines/DIGEST, and the same in the user's cache.

        Of a foreign checkpoint MODEL.pth.engines: a model file of the same stem has its own folder.
        """
        key = self.digest[:16]
        stem = self.model.stem if self.model.suffix == ".safetensors" else self.model.name
        beside = self.model.with_name(f"{stem}.engines") / key
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # a user without a home, as in some containers
            return (beside,)
        return beside, cache / "contorno" / key

    @cached_property
    def folder(self) -> Path:
        """The first of `places` that can be written: there artefacts are made.

        Raises:
            StorageError: none can be.
        """
        for folder in self.places:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = storage_error(folder, 0, error)
                continue
            if os.access(folder, os.W_OK):
                return folder
            problem = StorageError(f"{folder}: cannot be written")
        raise problem

    @property
    def unwritable(self) -> StorageError | None:
        """Why nothing can be made; None where it can."""
        try:
            _ = self.folder
        except StorageError as error:
            return error
        return None

    @property
    def readable(self) -> tuple[Path, ...]:
        """Where to look for what was made: in `folder`, whose content is newest, then others."""
        return self.places if self.unwritable else (self.folder, *self.places)

    def ready(self, name: str) -> Path | None:
        """The folder of this name where one stands ready, though it may not be written."""
        targets = (folder / _versioned(name) for folder in self.readable)
        return next((target for target in targets if _is_there(target)), None)

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of this name, made if it is not there; see `make`."""
        return self.ready(name) or self.make(name, make)

    def make(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make the folder of this name, where `folder` has none yet.

        Args:
            name: engine and version; contorno's own version is added.
            make: fills the empty folder that it is given.
        """
        target = self.folder / _versioned(name)
        self._remove_older()
        draft = Path(tempfile.mkdtemp(dir=self.folder, prefix=TEMPORARY_PREFIX))
        try:
            make(draft)
            for file in draft.iterdir():
                sync(file)
            _rename(draft, target)
        except OSError as error:
            raise storage_error(target, 0, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target

    def _remove_older(self) -> None:
        """What was made of a model that stood in this place before."""
        if self.folder.parent.suffix == ".engines":
            for other in self.folder.parent.iterdir():
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)


def _versioned(name: str) -> str:
    return f"{name}-contorno-{__version__}"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that may not be looked into
        return False


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if not target.exists():  # else another process was quicker
            raise


def damaged(graph: Path) -> ModelFileError:
    """The error to raise for an artefact that its engine cannot read."""
    fix = f"delete the folder {graph.parent}, and it is made again"
    if not os.access(graph.parent.parent, os.W_OK):
        fix = f"{graph.parent} cannot be deleted from here; have it done, or take --engine pytorch"
    return ModelFileError(f"{graph}: damaged since it was made of the model; {fix}")
