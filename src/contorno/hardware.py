"""The device and the number format for this machine, with the reason in words."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contorno.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Args:
        accelerator: "cpu", "cuda" or "mps", as Lightning Fabric and torch name them.
        precision: Fabric's name of the number format.
        reason: the choice in words, to print.
        asked: whether the number format was asked for, and is not merely what suits the machine.
    """

    accelerator: str
    precision: Precision
    reason: str
    asked: bool = False

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16-mixed"


def choose(*, device: str = "auto", precision: str = "auto") -> Hardware:
    """Choose device and number format.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16" or "32" (exact float32).

    Raises:
        ConfigError: unknown word, or a device that this machine lacks.
    """
    available = {"cpu": True, "cuda": False, "mps": False}
    if device != "cpu" and _may_have_gpu():
        import torch

        available["cuda"] = torch.cuda.is_available()
        available["mps"] = torch.backends.mps.is_available()
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if device not in available:
        raise ConfigError(f"device {device!r} is unknown; choose auto, cpu, cuda or mps")
    if not available[device]:
        raise ConfigError(f"device {device!r} is not available here; choose auto or cpu")
    native, why = _bf16(device)
    formats: dict[str, tuple[Precision, str]] = {
        "auto": ("bf16-mixed" if native else "32-true", why),
        "bf16": ("bf16-mixed", "bfloat16 as asked"),
        "32": ("32-true", "exact float32 as asked"),
    }
    if precision not in formats:
        raise ConfigError(f"precision {precision!r} is unknown; choose auto, bf16 or 32")
    chosen, words = formats[precision]
    return Hardware(device, chosen, f"{_name(device)}, {words}", asked=precision != "auto")


def require_again(run: Path, *, device: str) -> None:
    """Raise ConfigError where this machine lacks the device that a run was begun on."""
    try:
        choose(device=device)
    except ConfigError:
        raise ConfigError(
            f"{run}: was begun on the device {device!r}, which is not available here, and cannot "
            "be continued exactly on another; go on with it there, or start a new run"
        ) from None


def free_memory() -> int:
    """Bytes of main memory that can be taken now; 4 GiB where the system does not tell.

    In a container, no more than its own limit leaves.
    """
    free = 4 * 2**30
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, max(limit - int((_CGROUP / "memory.current").read_text()), 0))
    return free


def use(hardware: Hardware) -> None:
    """Make the libraries compute as chosen: on a GPU, float32 that is float32 and not TF32."""
    if hardware.accelerator == "cuda":
        import torch

        torch.backends.cudnn.allow_tf32 = hardware.bf16
        torch.backends.cuda.matmul.allow_tf32 = hardware.bf16


@contextmanager
def fresh_torch() -> Iterator[None]:
    """PyTorch within as it is when it is loaded, and afterwards as its caller had it.

    A script may have switched gradients off, or made another type or device the usual one. Its
    random numbers go on where they were: a search would try the numbers after the run's seed alone.
    """
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    elsewhere = torch.device("cpu") if device.type != "cpu" else nullcontext()
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with (
        torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        elsewhere,
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def keep_memory() -> None:
    """Keep freed memory for the next step instead of giving it back, where this is glibc.

    Each step would map its activations afresh otherwise, and have the system clear them.
    """
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _may_have_gpu() -> bool:
    """Whether it is worth to load PyTorch, which takes seconds, to ask for a GPU."""
    if sys.platform != "linux":
        return True
    return any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def _bf16(device: str) -> tuple[bool, str]:
    if device == "cuda":
        import torch

        native = torch.cuda.get_device_capability()[0] >= 8
        return native, "bfloat16" if native else "float32: this GPU has no bfloat16 units"
    if device == "cpu":
        features = _cpu_features()
        for feature, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
            if feature in features:
                return True, f"bfloat16 by the processor's {name}"
        return False, "float32: this processor has no bfloat16 instructions"
    return False, "float32"


def _cpu_features() -> set[str]:
    """Instruction sets of the processor: from Linux, or from PyTorch elsewhere."""
    with suppress(OSError, StopIteration):
        lines = _CPUINFO.read_text().splitlines()
        return set(next(line for line in lines if line.startswith("flags")).split())
    import torch

    return {name for name, there in torch.cpu.get_capabilities().items() if there is True}


def _name(device: str) -> str:
    if device == "cuda":
        import torch

        return f"GPU {torch.cuda.get_device_name()}"
    if device == "cpu":
        return "CPU with 1 core" if cores() == 1 else f"CPU with {cores()} cores"
    return "Apple GPU"
