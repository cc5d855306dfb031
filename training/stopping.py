"""Handling of Ctrl-C and SIGTERM that lets the current step end first."""

import signal


class Stopped(Exception):
    """A signal asked the run to stop. It is raised only where the state may be saved."""


class Stopper:
    """A context in which the first SIGINT or SIGTERM is noted for ``check``, and a second one stops the run at once.

    ``leave`` does what the signal would have done without this context.
    """

    def __enter__(self):
        self.asked = None
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._note)
            except ValueError:  # signals arrive in the main thread only
                break
        return self

    def _note(self, number, frame):
        if self.asked is not None:
            self.leave()
        self.asked = number

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.asked is not None:
            raise Stopped

    def leave(self) -> None:
        """Stop as the signal does outside of this context."""
        before = self.before[self.asked]
        if callable(before):
            before(self.asked, None)
        raise KeyboardInterrupt

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
