"""Groups are found in names, joined by copies, and never torn apart by the split."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contorno.data.groups import Grouping, by_pattern, folds, guess, joined, split
from contorno.errors import ConfigError, InputError

# By a pattern ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [r"^(p\d+)", r"p\d+", r"^(?:x)?(p\d+)_(\d)"])
def test_pattern_takes_its_first_bracket_or_all_it_matches(pattern: str) -> None:
    grouping = by_pattern(["p1_1", "p1_2", "p2_1"], pattern)
    assert grouping.of == {"p1_1": "p1", "p1_2": "p1", "p2_1": "p2"}
    assert f"'{pattern}'" in grouping.rule


def test_bad_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"group \('\(p'\) is not a regular expression: missing"):
        by_pattern(["p1"], "(p")


@pytest.mark.parametrize("pattern", [r"^(p\d+)", r"(?:^(p\d+))?", r"^p(\d*)"])
def test_names_that_do_not_match_are_listed(pattern: str) -> None:
    names = ["p1", *(f"{letter}x" for letter in "hgfedcba")]
    with pytest.raises(InputError, match=r"8 of 9 names: ax, bx, cx, dx, ex \.\.\."):
        by_pattern(names, pattern)


def test_one_group_for_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"all 3 names into one group, 'p'"):
        by_pattern(["p1", "p2", "p3"], "p")
    assert by_pattern(["p1"], "p").of == {"p1": "p"}


# By a guess ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "beginning"),
    [
        ("patient{0:02}_slice{1}", "patient{0:02}"),
        ("patient{0}slice{1}", "patient{0}"),
        ("slide{0}-tile_{1}_5", "slide{0}"),
        ("2018_{2}_{1:03}", "2018_{2}"),
        ("{0}_{1}", "{0}"),
        ("img{0}.crop.{1}", "img{0}"),
        ("study-7 case {0}, view {1}", "study-7 case {0}"),
        ("Fall_{0}_Ansicht_ä{1}", "Fall_{0}"),
        ("Image_{0:02}{2}{1}", None),  # two letters and a number: not one shape
        ("{0}{3}", "{0}"),  # 12L and 12R
    ],
)
def test_names_that_begin_alike_are_one_group(form: str, beginning: str | None) -> None:
    cases = list(itertools.product(range(1, 8), range(1, 5)))
    if "{3}" in form:
        cases = [case for case in cases if case[1] < 3]
    filled = [(i, j, "abcdefgh"[i], " LR.."[j]) for i, j in cases]
    names = [form.format(*values) for values in filled]
    grouping = guess(names)
    if beginning is None:
        assert grouping is None
        return
    assert grouping is not None
    expected = [beginning.format(*values) for values in filled]
    assert [grouping.of[name] for name in names] == expected
    assert repr(expected[0]) in grouping.rule


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a"],
        [f"p{i}" for i in range(100)],
        [f"satImage_{i:03}" for i in range(100)],
        [f"{i:02}" for i in range(30)],
        [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)],
        [str(uuid.UUID(int=i * 2**100 + i)) for i in range(1, 200)],
        [f"{kind}_{i}" for kind in ("cat", "dog", "cow", "hen", "fox") for i in range(9)],
        [f"{row}{i}" for row in "ABCDEFGH" for i in range(12)],  # wells of a plate
        [f"p{p}_{i}" for p in range(4) for i in range(9)],  # four groups
        [f"p{p}_{i}" for p in range(40) for i in range(1)],  # of one each
        [f"p0_{i}" for i in range(50)] + [f"p{p}_0" for p in range(1, 20)],  # one has most
    ],
)
def test_nothing_is_found_where_there_is_nothing(names: list[str]) -> None:
    assert guess(names) is None


def test_guess_does_not_hang_on_order() -> None:
    names = [f"p{p}_{i}" for p in range(12) for i in range(5)]
    assert guess(names) == guess(names[::-1])


# Joined by copies ------------------------------------------------------------------------------


def test_groups_that_share_copies_become_one() -> None:
    names = ["a1", "a2", "b1", "b2", "c1", "d1"]
    grouping = Grouping({name: name[0] for name in names}, "first letter")
    found = joined(names, grouping, [("c1", "b2"), ("d1", "c1"), ("b1", "b2")])
    assert found is not None
    assert found.of == {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "b", "d1": "b"}
    assert found.rule == "first letter; groups that share copies of a picture are one"
    assert joined(names, grouping, [("b1", "b2")]) == grouping
    assert joined(names, grouping, []) == grouping


def test_copies_alone_make_groups() -> None:
    found = joined(["a", "b", "c"], None, [("c", "a")])
    assert found is not None
    assert found.of == {"a": "a", "b": "b", "c": "a"}
    assert joined(["a", "b"], None, []) is None


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=20), st.randoms())
def test_joined_groups_are_the_connected_ones(pairs: list[tuple[int, int]], random: object) -> None:
    names = [f"n{i:02}" for i in range(12)]  # 12 to 15 are copies that could not be used
    reached = {i: {i} for i in range(16)}
    for _ in range(16):
        for i, j in pairs:
            both = reached[i] | reached[j]
            reached |= dict.fromkeys(both, both)
    expected = {f"n{i:02}": f"n{min(reached[i]):02}" for i in range(12)}
    found = joined(names, None, [(f"n{i:02}", f"n{j:02}") for i, j in pairs])
    assert (found.of if found else {name: name for name in names}) == expected


# The split -------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 60),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
    strata=st.booleans(),
)
@settings(deadline=None)
def test_split_parts_all_names(count: int, share: float, seed: int, strata: bool) -> None:
    names = [f"n{index}" for index in range(count)]
    foreground = {name: (7 * i % 10) / 10 for i, name in enumerate(names)} if strata else None
    training, validation = split(names, share=share, seed=seed, foreground=foreground)
    assert sorted(training + validation) == sorted(names)
    assert training == sorted(training)
    assert validation == sorted(validation)
    assert len(validation) == min(max(round(share * count), 1), count - 1)
    again = split(names[::-1], share=share, seed=seed, foreground=foreground)
    assert again == (training, validation)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_groups_stay_whole(sizes: list[int], share: float, seed: int) -> None:
    of = {f"{i}_{j}": f"g{i}" for i, size in enumerate(sizes) for j in range(size)}
    names = list(of)
    grouping = Grouping(of, "made up")
    training, validation = split(names, share=share, seed=seed, grouping=grouping)
    assert training
    assert validation
    assert sorted(training + validation) == sorted(names)
    assert not {of[name] for name in training} & {of[name] for name in validation}
    target = min(max(round(share * len(names)), 1), len(names) - 1)
    # Within half of the largest group, unless the part would be empty or all.
    assert abs(len(validation) - target) <= max(sizes)
    renamed = Grouping({name: f"{hash(label)}" for name, label in of.items()}, "made up")
    again = split(names[::-1], share=share, seed=seed, grouping=renamed)
    assert again == (training, validation)


def test_a_group_of_nearly_all_goes_to_training() -> None:
    names = [f"big{i}" for i in range(60)] + [f"small{i}" for i in range(12)]
    grouping = Grouping({n: "big" if n.startswith("big") else n for n in names}, "made up")
    for seed in range(20):
        _, validation = split(names, share=0.1, seed=seed, grouping=grouping)
        assert len(validation) == 7
        assert not any(name.startswith("big") for name in validation)


def test_split_depends_on_the_seed() -> None:
    names = [f"n{index}" for index in range(20)]
    parts = {tuple(split(names, share=0.2, seed=seed)[1]) for seed in range(10)}
    assert len(parts) > 5


def test_every_name_is_drawn_equally_often() -> None:
    names = [f"n{index}" for index in range(10)]
    foreground = {name: i / 10 for i, name in enumerate(names)}
    for given_foreground in (None, foreground):
        parts = [
            split(names, share=0.3, seed=seed, foreground=given_foreground)[1]
            for seed in range(600)
        ]
        counts = Counter(itertools.chain(*parts))
        assert all(130 < counts[name] < 230 for name in names)  # 180 expected, deviation 11


def test_validation_has_pictures_from_all_over_the_range_of_foreground() -> None:
    names = [f"n{index}" for index in range(50)]
    foreground = {name: (index * 17 % 50) / 50 for index, name in enumerate(names)}
    for seed in range(20):
        _, validation = split(names, share=0.2, seed=seed, foreground=foreground)
        shares = np.sort([foreground[name] for name in validation])
        np.testing.assert_allclose(shares, np.arange(0.04, 1, 0.1), atol=0.0401)  # one of each 5


def test_groups_are_drawn_by_their_mean_foreground() -> None:
    of = {f"{i}_{j}": f"g{i}" for i in range(40) for j in range(3)}
    foreground = {name: int(name.split("_")[0]) / 40 + 0.1 * name.endswith("2") for name in of}
    grouping = Grouping(of, "made up")
    for seed in range(20):
        _, validation = split(
            list(of), share=0.25, seed=seed, grouping=grouping, foreground=foreground
        )
        numbers = np.sort([int(name.split("_")[0]) for name in validation[::3]])
        np.testing.assert_array_equal(numbers // 4, np.arange(10))  # one of each four


def test_foreground_that_is_not_known_does_no_harm() -> None:
    names = [f"n{index}" for index in range(20)]
    foreground = {"n1": 0.5, "n2": float("nan"), "elsewhere": 0.5}
    training, validation = split(names, share=0.2, seed=0, foreground=foreground)
    assert len(training) == 16
    assert len(validation) == 4


def test_split_by_choice_goes_before_groups() -> None:
    grouping = Grouping(dict.fromkeys("abc", "all"), "made up")
    for given_grouping in (None, grouping):
        assert split(
            ["a", "b", "c"], share=0.9, seed=0, chosen=["c", "a", "z"], grouping=given_grouping
        ) == (["b"], ["a", "c"])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a"], None),
        ([], None),
        (["a", "b"], ["a", "b"]),
        (["a", "b"], ["z"]),
        (["a", "b"], []),
    ],
)
def test_split_leaves_no_part_empty(names: list[str], chosen: list[str] | None) -> None:
    with pytest.raises(InputError, match="each needs at least one"):
        split(names, share=0.5, seed=0, chosen=chosen)


def test_one_group_cannot_be_parted() -> None:
    grouping = Grouping(dict.fromkeys("abc", "all"), "the rule")
    with pytest.raises(InputError, match=r"at least one; all are in one group \(the rule\)"):
        split(list("abc"), share=0.5, seed=0, grouping=grouping)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed \(-1\)"):
        split(["a", "b"], share=0.5, seed=-1)


def test_many_names_are_parted_at_once() -> None:
    of = {f"{i}_{j}": f"g{i}" for i in range(4000) for j in range(1 + i * 7 % 9)}
    _, validation = split(list(of), share=0.1, seed=0, grouping=Grouping(of, ""))
    assert len(validation) == round(0.1 * len(of))


# Folds -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=20),
    count=st.integers(2, 6),
    seed=st.integers(0, 3),
)
def test_folds_hold_every_name_once_and_part_no_group(
    sizes: list[int], count: int, seed: int
) -> None:
    of = {f"g{g}_{i}": f"g{g}" for g, size in enumerate(sizes) for i in range(size)}
    count = min(count, len(sizes))
    parts = folds(list(of), count, seed=seed, grouping=Grouping(of, "made up"))
    assert sorted(name for part in parts for name in part) == sorted(of)
    assert all(part == sorted(part) and part for part in parts)
    for label in set(of.values()):
        assert sum(label in {of[name] for name in part} for part in parts) == 1
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= max(sizes)


def test_folds_are_alike_in_size_and_foreground() -> None:
    names = [f"p{i:02}" for i in range(52)]
    foreground = {name: 0.01 * i for i, name in enumerate(names)}
    parts = folds(names, 5, seed=0, foreground=foreground)
    assert sorted(map(len, parts)) == [10, 10, 10, 11, 11]
    means = [np.mean([foreground[name] for name in part]) for part in parts]
    assert max(means) - min(means) < 0.05  # random ones differ by 0.11
    assert folds(names, 5, seed=0, foreground=foreground) == parts
    assert folds(names[::-1], 5, seed=0, foreground=foreground) == parts
    assert folds(names, 5, seed=1, foreground=foreground) != parts


def test_a_large_group_gets_a_fold_for_itself() -> None:
    of = {f"big_{i}": "big" for i in range(10)} | {f"s{i}": f"s{i}" for i in range(20)}
    foreground = {name: 0.9 if label == "big" else 0.1 for name, label in of.items()}
    parts = folds(list(of), 3, seed=0, grouping=Grouping(of, ""), foreground=foreground)
    assert [len(part) for part in parts] == [10, 10, 10]


def test_more_folds_than_groups_are_refused() -> None:
    grouping = Grouping({"a1": "a", "a2": "a", "b1": "b"}, "by letter")
    with pytest.raises(ConfigError, match=r"folds \(3\) must be from 2 to 2, .*by letter.*; try 2"):
        folds(["a1", "a2", "b1"], 3, seed=0, grouping=grouping)
    with pytest.raises(
        ConfigError, match=r"folds \(1\) must be from 2 to 3, .* usable pairs; try 3"
    ):
        folds(["a1", "a2", "b1"], 1, seed=0)
    with pytest.raises(ConfigError, match=r"folds \(2\) must be from 2 to 1"):
        folds(["a1"], 2, seed=0)


@pytest.mark.parametrize(
    ("pairs", "expected"), [(2, 1), (10, 2), (250, 50), (400, 50), (2500, 50), (5000, 100)]
)
def test_the_usual_share_is_a_fifth_but_no_more_than_needed(pairs: int, expected: int) -> None:
    names = [f"n{index}" for index in range(pairs)]
    assert len(split(names, seed=0)[1]) == expected
