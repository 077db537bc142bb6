"""Where the fit runs."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from knitcore.errors import DeviceError, InputError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Turn a recipe's device name into a device that is there.

    Parameters
    ----------
    name : str
        "auto", "cpu", "mps", "cuda" or "cuda:N"; auto takes CUDA, then MPS, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        The device asked for is absent.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(
                f"no CUDA device; torch {torch.__version__} sees none. Set device to cpu or auto "
                "(--device cpu)."
            )
        if device.index is not None and device.index >= count:
            found = ", ".join(f"cuda:{i}" for i in range(count))
            raise DeviceError(f"no device {name}; present: {found}")
    if device.type == "mps" and not mps:
        raise DeviceError(
            "no MPS device (Apple GPU) here. Set device to cpu or auto (--device cpu)."
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; without, torch only acts as if, and takes longer.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))


def usable_precision(precision: str, device: torch.device) -> str:
    """The precision that a recipe asks for, where the device has it, else float32.

    Parameters
    ----------
    precision : str
    device : torch.device

    Returns
    -------
    str
    """
    return precision if precision == "float32" or has_bfloat16(device) else "float32"


def lean(device: torch.device, precision: str) -> AbstractContextManager:
    """Context in which products of matrices are taken in `precision`; weights stay float32.

    It holds for the thread that enters it alone.

    Parameters
    ----------
    device : torch.device
    precision : str
        "float32", or "bfloat16": several times faster on processors with matrix units for it.

    Raises
    ------
    InputError
        Another name.
    """
    import torch

    if precision == "float32":
        return nullcontext()
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    raise InputError(f"precision {precision!r} is unknown; use float32 or bfloat16")


def spare_cores() -> int:
    """Cores that a computation may take: one less than there are, at most four.

    More gain nothing on arrays this small, and on a busy machine threads that wait for each other
    made a fit ten times slower, a solve five times (measured on two cores).

    Returns
    -------
    int
    """
    return max(1, min((os.cpu_count() or 2) - 1, 4))


def fit_threads() -> int:
    """Torch threads of a fit on the CPU.

    Returns
    -------
    int
        The spare cores, but never more than torch is set to (OMP_NUM_THREADS,
        `torch.set_num_threads`).
    """
    import torch

    return min(torch.get_num_threads(), spare_cores())


def cores_for(watched: bool) -> int:
    """Cores that independent parts of a computation may share, each in a thread of its own.

    Parameters
    ----------
    watched : bool
        Somebody looks at previews: one core is left to the window.

    Returns
    -------
    int
        Never more than torch is set to, so that a process of a batch keeps to its share.
    """
    import torch

    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - watched))


def together(device: torch.device, each: int) -> int:
    """How many fits a device is given at a time.

    Parameters
    ----------
    device : torch.device
    each : int
        Bytes that one of them needs.

    Returns
    -------
    int
        On a GPU as many as half of its free memory holds, at most 64: one hardly keeps it busy. On
        the CPU up to four small ones, which took a seventh less time than one by one (measured); more
        gained nothing, and a step must stay short enough to be heard from.
    """
    import torch

    if device.type == "cpu":
        most, room = 4, 2**26
    elif device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        most, room = 64, (torch.cuda.mem_get_info(device)[0] + kept) // 2
    else:
        most, room = 16, 2**30
    return max(1, min(most, room // max(each, 1)))


def device_name(device: torch.device) -> str:
    """Name of the hardware behind a device, for the record.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    str
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        try:
            with open("/proc/cpuinfo") as lines:
                models = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
            return models[0].strip()
        except (OSError, IndexError):
            pass
    return platform.processor() or platform.machine()
