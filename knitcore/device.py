"""Where the fit runs."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from knitcore.errors import DeviceError

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
                f"no CUDA device; torch {torch.__version__} sees none. Use --device cpu or auto."
            )
        if device.index is not None and device.index >= count:
            found = ", ".join(f"cuda:{i}" for i in range(count))
            raise DeviceError(f"no device {name}; present: {found}")
    if device.type == "mps" and not mps:
        raise DeviceError("no MPS device (Apple GPU) here. Use --device cpu or auto.")
    return device


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
