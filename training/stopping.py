"""Ctrl-C and SIGTERM that let the step under way end."""

import signal


class Stopped(Exception):
    """Asked to stop, at a moment when the state may be saved."""


class Stopper:
    """A context in which the first SIGINT or SIGTERM is noted, for ``check``; a second one stops at once.

    ``leave`` does what the signal would have done without it.
    """

    def __enter__(self):
        self.asked = None
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread, where signals don't arrive
                break
        return self

    def _note(self, number, frame):
        if self.asked is not None:
            self.leave()
        self.asked = number

    def check(self) -> None:
        """Raise Stopped where a signal came."""
        if self.asked is not None:
            raise Stopped

    def leave(self) -> None:
        """The way out that the signal takes outside of this context."""
        before = self.before[self.asked]
        if callable(before):
            before(self.asked, None)
        raise KeyboardInterrupt

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
