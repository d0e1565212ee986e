"""The choice of device and number format, on pretended machines, with a reason in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from contorno import hardware
from contorno.errors import ConfigError
from contorno.hardware import Hardware, choose, cores, free_memory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend a machine: machine(cuda=(major, minor) or None, mps=..., cpu={capability: bool})."""

    def pretend(
        *,
        cuda: tuple[int, int] | None = None,
        mps: bool = False,
        cpu: dict[str, bool] | None = None,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test 9000")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu or {})
        monkeypatch.setattr(hardware, "_CPUINFO", Path("/nonexistent"))  # as on other systems
        monkeypatch.setattr(hardware, "_may_have_gpu", lambda: True)

    pretend()
    return pretend


BF16, EXACT = "bf16-mixed", "32-true"


@pytest.mark.parametrize(
    ("hardware", "accelerator", "precision", "words"),
    [
        ({}, "cpu", EXACT, "no bfloat16 instructions"),
        ({"cpu": {"amx_bf16": True, "avx512_bf16": True}}, "cpu", BF16, "the processor's AMX"),
        ({"cpu": {"amx_bf16": False, "avx512_bf16": True}}, "cpu", BF16, "AVX512-BF16"),
        ({"cpu": {"amx_bf16": False}}, "cpu", EXACT, "float32"),
        ({"cuda": (9, 0)}, "cuda", BF16, "GPU Test 9000, bfloat16"),
        ({"cuda": (8, 0), "mps": True}, "cuda", BF16, "bfloat16"),
        ({"cuda": (7, 5)}, "cuda", EXACT, "this GPU has no bfloat16 units"),
        ({"mps": True}, "mps", EXACT, "Apple GPU, float32"),
    ],
)
def test_the_automatic_choice(
    machine: Any, hardware: dict[str, Any], accelerator: str, precision: str, words: str
) -> None:
    machine(**hardware)
    chosen = choose()
    assert (chosen.accelerator, chosen.precision) == (accelerator, precision)
    assert words in chosen.reason
    assert chosen.bf16 == (precision == BF16)


def test_wishes_are_followed(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(cuda=(9, 0), cpu={"amx_bf16": True})
    for number, words in ((1, "1 core"), (3, "3 cores")):
        monkeypatch.setattr(hardware, "cores", lambda number=number: number)
        exact = choose(device="cpu", precision="32")
        assert (exact.accelerator, exact.precision) == ("cpu", EXACT)
        assert exact.reason == f"CPU with {words}, exact float32 as asked"
    machine()
    coarse = choose(device="cpu", precision="bf16")
    assert coarse.bf16
    assert "bfloat16 as asked" in coarse.reason


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("fpu sse2 avx512_bf16", BF16), ("fpu amx_bf16 avx512_bf16", BF16), ("fpu sse2", EXACT)],
)
def test_linux_tells_without_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, precision: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nprocessor\t: 1\n")
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: pytest.fail("PyTorch was asked"))
    assert choose(device="cpu").precision == precision


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"device": "gpu"}, r"'gpu' is unknown; choose auto, cpu, cuda or mps"),
        ({"device": "cuda"}, r"'cuda' is not available here; choose auto or cpu"),
        ({"device": "mps"}, r"'mps' is not available here"),
        ({"precision": "16"}, r"'16' is unknown; choose auto, bf16 or 32"),
    ],
)
def test_impossible_wishes(machine: Any, wish: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(**wish)


def test_this_machine_can_do_what_is_chosen() -> None:
    chosen = choose()
    x = torch.ones(2, 2, device=chosen.accelerator)
    with torch.autocast(chosen.accelerator, torch.bfloat16, enabled=chosen.bf16):
        y = x @ x
    assert y.dtype == (torch.bfloat16 if chosen.bf16 else torch.float32)
    assert Hardware("cpu", "32-true", "x").bf16 is False


def test_free_memory_is_some_of_what_is_there() -> None:
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free_memory() <= installed


def test_free_memory_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("/proc/meminfo")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        found = free_memory()
    assert found == 4 * 2**30


def test_free_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 2**20


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
