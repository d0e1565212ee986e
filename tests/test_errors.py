"""Errors list every problem, end with the right exit code, and survive a pickle."""

from __future__ import annotations

import pickle

import pytest

from contorno.errors import (
    ConfigError,
    ContornoError,
    InputError,
    Interrupted,
    MissingExtra,
    ModelFileError,
    Problem,
    StorageError,
    TrainingError,
)


def problem(number: int) -> Problem:
    return Problem(f"m{number}.png", "empty", "a mask", "draw one")


def test_a_problem_in_words_and_as_data() -> None:
    assert str(problem(1)) == "m1.png: empty; expected a mask. Fix: draw one"
    assert problem(1).as_dict() == {
        "path": "m1.png",
        "what": "empty",
        "expected": "a mask",
        "fix": "draw one",
        "kind": "",
        "severity": "error",
    }


@pytest.mark.parametrize(
    ("count", "hidden"), [(0, ""), (1, ""), (200, ""), (201, "and 1 more"), (500, "and 300 more")]
)
def test_many_problems_are_cut_to_a_page(count: int, hidden: str) -> None:
    error = InputError("nothing fits", [problem(number) for number in range(count)])
    lines = str(error).splitlines()
    assert lines[0] == "nothing fits"
    assert len(lines) == 1 + min(count, 200) + bool(hidden)
    assert len(error.problems) == count
    if hidden:
        assert lines[-1].strip() == hidden


def test_exit_codes() -> None:
    codes = {
        kind: kind.exit_code
        for kind in (
            ConfigError,
            ModelFileError,
            InputError,
            StorageError,
            TrainingError,
            ContornoError,
        )
    }
    assert set(codes.values()) == {1, 2}
    assert codes[ConfigError] == codes[ModelFileError] == codes[InputError] == 2
    assert Interrupted("stopped").exit_code == 130
    assert Interrupted("stopped", exit_code=143).exit_code == 143


def test_a_missing_extra_says_how_to_install_it() -> None:
    assert str(MissingExtra("geo", "reading GeoTIFF")) == (
        "reading GeoTIFF needs an extra library: pip install 'contorno[geo]'"
    )


def test_errors_survive_a_pickle() -> None:
    error = ConfigError("bad", [problem(1)])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.problems == error.problems
