"""No network call because a file says so: a head or a checkpoint may come from a stranger."""

import contextlib
import sys
from collections.abc import Iterator

NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})
"""Python's audit events of network calls. Each is raised before the call is made."""

_refused = False
_hooked = False


class Refused(OSError):
    """A network call was refused."""


def _hook(event: str, _) -> None:
    if _refused and event in NETWORK:
        raise Refused("the network is not asked")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Inside, every network call of this process raises ``Refused``, and the hub's library uses its cache alone.

    An audit hook stays for good, so there is one, which does nothing outside.
    """
    global _refused, _hooked
    from huggingface_hub import constants

    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    before = _refused, constants.HF_HUB_OFFLINE
    _refused, constants.HF_HUB_OFFLINE = True, True
    try:
        yield
    finally:
        _refused, constants.HF_HUB_OFFLINE = before
