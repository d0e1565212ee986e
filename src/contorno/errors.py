"""Every error that contorno raises on purpose.

    ContornoError
    ├── InputError          something the user gave cannot be used; lists all problems at once
    │   ├── ConfigError     an option or a config.toml has a value that cannot work
    │   └── ModelFileError  a model or checkpoint file cannot be read or is not what it says
    ├── MissingExtra        an optional library is not installed
    ├── StorageError        a file could not be written (full disk, no permission)
    ├── OutOfMemory         a picture does not fit in memory
    ├── TrainingError       training cannot go on (loss not finite, out of memory at batch 1)
    └── Interrupted         the user or the system stopped the run; its state is safe

A command prints the message and ends with `exit_code`; `--debug` shows the traceback too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file: what was found, what was expected and how to mend it.

    Args:
        path, what, expected, fix: for people.
        kind: a stable short name, for programs.
        severity: "error" where the file cannot be used, "warning" where it can but looks wrong,
            "note" for what is only worth knowing.
    """

    path: str
    what: str
    expected: str
    fix: str
    kind: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; expected {self.expected}. Fix: {self.fix}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class ContornoError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(ContornoError):
    """Something the user gave cannot be used.

    Args:
        message: what cannot be done, in one sentence.
        problems: every problem found, one per file.
    """

    exit_code = 2
    shown = 200  # problems printed before "and N more"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.message = message
        self.problems = tuple(problems)
        super().__init__(message, self.problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems[: self.shown])]
        hidden = len(self.problems) - self.shown
        if hidden > 0:
            lines.append(f"  and {hidden} more")
        return "\n".join(lines)


class ConfigError(InputError):
    """An option or a config.toml has a value that cannot work."""


class ModelFileError(InputError):
    """A model or checkpoint file cannot be read, or is not what its name says."""


class MissingExtra(ContornoError):
    """An optional library is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs an extra library: pip install 'contorno[{extra}]'")


class StorageError(ContornoError):
    """A file could not be written; what stood there before is untouched."""


class OutOfMemory(ContornoError):
    """A picture does not fit in the memory of the machine or the device."""


class TrainingError(ContornoError):
    """Training cannot go on; the best model so far is safe."""


class Interrupted(ContornoError):
    """The run was stopped from outside after its state was saved."""

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
