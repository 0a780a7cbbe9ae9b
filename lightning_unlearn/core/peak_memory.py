"""Peak memory of this process, for the record of a run."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

_MIB = 2**20
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: the peak resident set size becomes the present one


def reset_peak_memory(device: torch.device) -> None:
    """Let the peaks start from what is in use now; the process's own peak can be reset on Linux alone.

    Args:
        device: The device that a model is about to be trained on.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # where the system knows no such file, or forbids it, the peak stays that of the whole process
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peaks since the process began or since :func:`reset_peak_memory`, in MiB.

    Args:
        device: The device that the model was trained on.

    Returns:
        ``memory/process_peak_mib``, the resident memory of this process, on systems that tell it; on a GPU also
        ``memory/gpu_peak_mib``, the memory that PyTorch had allocated there.

    Example:
        >>> all(mib > 0 for mib in peak_memory(torch.device("cpu")).values())
        True
    """
    peaks: dict[str, float] = {}
    status = Path("/proc/self/status")
    if status.is_file():
        peaks["memory/process_peak_mib"] = _high_water_mark(status.read_text()) / 1024
    elif sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
        peaks["memory/process_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
    if device.type == "cuda":
        peaks["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated(device) / _MIB
    return peaks


def _high_water_mark(status: str) -> float:
    """Read the peak resident set size, in KiB, from the text of /proc/self/status.

    Example:
        >>> _high_water_mark("VmHWM:      512 kB")
        512.0
    """
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1])
