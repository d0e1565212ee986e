"""Every command and every Python example of README and docs runs as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from contorno.cli import app, main
from contorno.data.demo import write

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = ["--epochs", "1", "--widths", "4,8", "--crop", "64"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[str]:
    lines = "".join(blocks(page, "")).replace("\\\n", "").splitlines()
    return [line for line in lines if line.startswith("contorno ")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the documented commands name."""
    import torch

    from contorno import UNet

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cells_set", train=6, test=2, size=64)
    for source, targets in {
        "train/images": ("cells/images", "images"),
        "train/masks": ("cells/masks", "masks"),
        "test/images": ("test/images", "photos", "more"),
        "test/masks": ("test/masks",),
    }.items():
        for target in targets:
            shutil.copytree(tmp_path / "cells_set" / source, tmp_path / target)
    shutil.copy("photos/cells_006.png", "photo.png")
    for index, path in enumerate(sorted(Path("more").iterdir())):
        path.rename(path.with_name(f"other{index}.png"))
    torch.save(UNet(widths=(4, 8), up="bilinear", activation="sigmoid").state_dict(), "unet.pth")
    return tmp_path


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/commands.md"], ids=lambda p: p.name
)
def test_commands_run(page: Path, workplace: Path):
    """As written, but for a training that is made short."""
    lines = commands(page)
    assert len(lines) >= 5
    if not any(line.startswith("contorno train cells") for line in lines):
        assert main(["train", "cells/images", "cells/masks", "--out", "runs/cells", *TINY]) == 0
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "demo":
            continue  # `make demo` runs it
        if words[0] == "train" and "--time" in words:
            at = words.index("--time")
            words[at : at + 2] = TINY
            if Path(words[words.index("--out") + 1]).exists():
                words[words.index("--out") + 1] += "-again"
        assert main(words) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_options_exist(page: Path):
    """Every command line anywhere in the docs parses, with paths and numbers of any value."""
    for line in commands(page):
        words = shlex.split(line.replace("SET", "set"))[1:]
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", [ROOT / "docs/python.md"], ids=lambda p: p.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)


def test_readme_python_example_runs(workplace: Path):
    (code,) = blocks(ROOT / "README.md", "python")
    code = code.replace('time="10m"', "epochs=1, widths=(4, 8), crop=64")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            assert heading in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]


def test_every_command_has_help_with_an_example_and_a_page():
    documented = (ROOT / "docs/commands.md").read_text()
    for name in ("check", "train", "predict", "evaluate", "bench", "convert", "demo"):
        assert f"## {name}" in documented
        assert "Example: contorno " + name in (app[name].help or "")


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(ROOT / "README.md", ""):
        for target in re.findall(r"^make (\w[\w-]*)$", block, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target
    assert (
        shutil.which("make") is None
        or subprocess.run(
            ["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )
