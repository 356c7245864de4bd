# SPDX-License-Identifier: Apache-2.0
"""Remembers which candidate ended the process when it first ran on the shapes of a bucket.

The check runs small shapes; a kernel may still break the device on the user's. Before the first run of each
candidate its name goes to disk, and what a dead process has left there is not tried again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bido_ext import _disk_cache
from bido_ext.serving import process, verdicts
from bido_ext.serving.measure import Step

_TOPIC = "first_runs"


class FirstRuns:
    """The first runs of the candidates of one bucket.

    Attributes:
        last: The candidate whose first run began last; it has ended where another one began.
    """

    def __init__(self, device: torch.device, bucket: tuple[object, ...]) -> None:
        self._device, self._bucket = device, bucket
        self.last: str | None = None

    def killed(self, name: str) -> bool:
        """Whether its first run broke the device or did not live to its end."""
        known = _disk_cache.read_one(_TOPIC, self._stored_as(name))
        return known == verdicts.BROKE or process.has_died(known)

    def watched(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """The steps, whose first runs leave a note."""
        return {name: self._watched(name, step) for name, step in steps.items()}

    def end(self) -> None:
        """All have run.

        Raises:
            RuntimeError: The device is lost; names the candidate, which is not tried again.
        """
        if self.last is None or verdicts.lives(self._device):
            self._note("lived")
            return
        self._note(verdicts.BROKE)
        raise RuntimeError(
            f"bido_ext::{self._bucket[0]}: the {self.last} implementation broke the device when it was timed. "
            "CUDA is lost for this process. Start again: it is refused for these shapes from now on."
        )

    def _watched(self, name: str, step: Step) -> Step:
        ran = False

        def run() -> None:
            nonlocal ran
            # A device that is lost fails whoever comes next: the blame stays where it was.
            if not ran and (self.last is None or verdicts.lives(self._device)):
                self._note("lived")
                self.last = name
                self._note(process.this_process())
            ran = True
            step()

        return run

    def _note(self, what: str) -> None:
        if self.last is not None:
            _disk_cache.update(_TOPIC, self._stored_as(self.last), what)

    def _stored_as(self, name: str) -> str:
        return verdicts.stored_as(name, *self._bucket)
