"""Whether a device that was named is one, and is there, before anything is loaded onto it."""

from typing import Any

from replay_core import UsageError
from replay_core.errors import shown

# What transformers spreads a model over several devices by.
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
_KINDS = ("cpu", "cuda", "mps", "xpu", "npu")


def check_device(option: str, given: Any, *, spread: bool = False, here: bool = False) -> None:
    """Raise UsageError where no device has this name or, with ``here``, none of this machine.

    None is fine, and with ``spread`` the maps over several devices.
    """
    if given is None or given == "" or (spread and given in _SPREAD):
        return
    import torch  # not above, since reading options must not cost its import

    try:
        device = torch.device(given)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        device = None
    more = ", ".join(_SPREAD) if spread else ""
    if device is None or device.type not in _KINDS:
        raise UsageError(
            f"{option}={shown(given)} is not allowed (allowed: "
            f"{', '.join(filter(None, ['cpu, cuda, cuda:1 and the like', more]))})"
        )
    if here and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise UsageError(
            f"{option}={shown(given)} is not possible: PyTorch finds {len(found) or 'no'} "
            f"GPU{'s' * (len(found) != 1)} on this machine (allowed: {', '.join(['cpu', *found])})"
        )
