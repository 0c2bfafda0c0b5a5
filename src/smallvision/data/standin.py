"""What a run goes on with when a named data set cannot be had, always under its own name."""

from dataclasses import replace

from smallvision.data.digits import digits
from smallvision.data.download import Offline
from smallvision.data.record import ImageData
from smallvision.data.shapes import shapes
from smallvision.errors import Refusal


def stand_in(named: str, offline: str, reason: Offline, hint: str) -> ImageData:
    """A data set of the same image size that says what it stands in for.

    ``offline``: "stand_in", or "error" to refuse; ``hint``: where the real files are looked for.
    """
    if offline == "error":
        raise Refusal(
            f"data={named}: not found and not downloaded ({reason}); put {hint}, or use data.offline=stand_in"
        )
    if named == "mnist":
        data = digits()
    elif named == "fashion_mnist":
        data = shapes(size=28, channels=1)
    else:
        data = shapes(size=32, channels=3)
    return replace(data, stand_in_for=named, source=f"stand-in for {named} ({reason}): {data.source}")
