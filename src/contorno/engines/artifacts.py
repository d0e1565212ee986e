"""What engines make of a model, kept for the next time: beside the model, or in the user's cache.

A folder of artefacts belongs to the bytes of one model file: its name holds their digest, and the
folders of a model that has been replaced are removed. A folder appears whole or not at all.
"""

from __future__ import annotations

import contextlib
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
    def folder(self) -> Path:
        """MODEL.engines/DIGEST, or the same in the user's cache where that cannot be written.

        Of a foreign checkpoint MODEL.pth.engines: a model file of the same stem has its own folder.

        Raises:
            StorageError: neither can be written.
        """
        key = self.digest[:16]
        stem = self.model.stem if self.model.suffix == ".safetensors" else self.model.name
        beside = self.model.with_name(f"{stem}.engines")
        places = [beside / key]
        with contextlib.suppress(RuntimeError):  # a user without a home, as in some containers
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            places.append(cache / "contorno" / key)
        for folder in places:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = storage_error(folder, 0, error)
                continue
            if os.access(folder, os.W_OK):
                return folder
            problem = StorageError(f"{folder}: cannot be written")
        raise problem

    def place(self, name: str) -> Path:
        """Where the artefact of this name stands, or would stand."""
        return self.folder / f"{name}-contorno-{__version__}"

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of this name, made if it is not there.

        Args:
            name: engine and version; contorno's own version is added.
            make: fills the empty folder that it is given.
        """
        target = self.place(name)
        if target.exists():
            return target
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


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if not target.exists():  # else another process was quicker
            raise


def damaged(graph: Path) -> ModelFileError:
    """The error to raise for an artefact that its engine cannot read."""
    return ModelFileError(
        f"{graph}: damaged since it was made of the model; delete the folder {graph.parent}, and "
        "it is made again"
    )
