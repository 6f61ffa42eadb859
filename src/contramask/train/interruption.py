"""SIGTERM and SIGINT between two steps of a training, so that it can save before it ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from contramask.train.world import World


class Interruption:
    """Notes a request to stop, until the loop has saved and lets it through with `deliver`.

    A second request ends a training of one process at once. Of several processes only the main one
    saves; the others work on until it has. Outside the main thread, where no signal arrives,
    nothing is changed.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.number: int | None = None
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._usual[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def requested(self) -> bool:
        """Whether the main process should save and stop."""
        return self.number is not None and self.world.is_main

    def deliver(self) -> None:
        """Let the noted signal do what it would have done."""
        self._restore()
        if self.number is not None:
            signal.raise_signal(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, number
        if self.world.size == 1:
            if not first:  # somebody is in a hurry
                self.deliver()
        elif first and not self.world.is_main:
            self.world.leave_after_main()

    def _restore(self) -> None:
        while self._usual:
            number, handler = self._usual.popitem()
            signal.signal(number, handler)
