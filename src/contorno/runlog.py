"""What a run tells while it trains: log.jsonl, TensorBoard if installed, printed lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contorno.files import append_line, write_text
from contorno.progress import clock, is_terminal, say, warn

LOG = "log.jsonl"
_SCALARS = ("loss", "validation_dice", "validation_loss", "learning_rate")


class RunLog:
    """Records epochs.

    Args:
        run: run folder.
        begin: number of the first epoch; TensorBoard drops what a run that was stopped showed of it
            and of later ones.
        classic: print R1's own line rather than ours.
        validate_every: epochs from one validation to the next.
    """

    def __init__(
        self, run: Path, *, classic: bool, begin: int = 1, validate_every: int = 1
    ) -> None:
        self._path = run / LOG
        self._classic = classic
        self._validate_every = validate_every
        self._validation = 0.0  # seconds that the last one took
        self._board = _tensorboard(run, begin)

    def epoch(self, record: dict[str, Any]) -> None:
        """Append the record of one epoch, and print it where no progress bar does."""
        append_line(self._path, json.dumps(record))
        self._show(record)
        if not is_terminal():
            say(_classic_line(record) if self._classic else self._line(record))

    def _line(self, record: dict[str, Any]) -> str:
        dice = f"  Dice {record['validation_dice']:.4f}" if "validation_dice" in record else ""
        mark = " (kept)" if record.get("best") else ""
        self._validation = record.get("validation_seconds", self._validation)
        each = record["seconds"] + self._validation / self._validate_every
        left = clock((record["epochs"] - record["epoch"]) * each)
        return (
            f"Epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}{dice}{mark}  "
            f"{record['images_per_second']:.1f} images/s  {left} left"
        )

    def _show(self, record: dict[str, Any]) -> None:
        """Hand a record to TensorBoard, and do without it from the first failure on."""
        if self._board is None:
            return
        try:
            for name in _SCALARS:
                if name in record:
                    self._board.add_scalar(name, record[name], record["epoch"])
            self._board.flush()
        except OSError as error:
            self._board = None
            _warn_of_board(error)

    def close(self) -> None:
        """End TensorBoard's thread, which would wait for more as long as the process lives."""
        if self._board is None:
            return
        try:
            self._board.close()
        except OSError as error:
            _warn_of_board(error)


def trim_log(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that will be done again, and a line cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["epoch"] <= epochs:
                kept.append(line + "\n")
        except ValueError:
            continue
    write_text(path, "".join(kept))


def _classic_line(record: dict[str, Any]) -> str:
    """R1's own words (Lote is Spanish for batch; it prints the first of each epoch)."""
    return f"Lote 0, Epoch {record['epoch']}/{record['epochs']}, Loss {record['loss']:.4f}"


def _tensorboard(run: Path, begin: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(run / "tensorboard"), purge_step=begin)
    except (OSError, UnicodeError) as error:  # it takes no paths that are not UTF-8
        _warn_of_board(error)
        return None


def _warn_of_board(error: Exception) -> None:
    warn(f"TensorBoard's files cannot be written ({error}); going on with {LOG} alone")
