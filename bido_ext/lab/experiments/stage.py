# SPDX-License-Identifier: Apache-2.0
"""A stage of a run: a folder that knows the configuration its files were made with.

``stage.json`` holds everything the outcome depends on.  A finished stage with the same
configuration is reused, an interrupted one continues, and one made with another configuration is
never passed off as this one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bido_ext.lab.data.atomic import remove_leftovers, write_text
from bido_ext.lab.experiments.lock import PATIENCE

FORMAT, VERSION = "bido_ext.stage", 1
FILE = "stage.json"
# Every file that the lab writes into the folder of a stage: all that starting over may remove.
_OWN_FILES = (
    FILE,
    "checkpoint.pt",
    "comparison.png",
    "gan.pt",
    "labels.pt",
    "latents.pt",
    "log.csv",
    "model.pt",
    "reconstructions.pt",
)


@dataclass(frozen=True)
class RunOptions:
    """How stages are run, without influence on what comes out.

    Attributes:
        fresh: Start every stage over.
        on_change: What to do with a folder made with another configuration: "error", or "rerun",
            which starts that stage over.
        progress: Show progress bars.
        device: Where to compute.
        patience: Seconds to wait for another run that is in the folder of a stage.
    """

    fresh: bool = False
    on_change: Literal["error", "rerun"] = "error"
    progress: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patience: float = PATIENCE


class Stage:
    """One stage in one folder.

    Args:
        directory: The folder, made when the stage starts.
        config: JSON-able settings, with the hashes of the inputs.
        product: Name of the file that a finished stage has.
        grows: Setting, as "training.epochs", of which a higher value continues what was made with a
            lower one; empty: there is none.
        stuck: Why it does not here; empty: it does.

    Raises:
        ValueError: A setting is not finite; it is named.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        product: str,
        *,
        grows: str = "",
        stuck: str = "",
    ) -> None:
        self.directory, self.product = directory, directory / product
        self.grows, self.stuck = grows, stuck
        # Through JSON, so that tuples and lists compare as what is read back.
        try:
            self.config: dict[str, Any] = json.loads(json.dumps(config, allow_nan=False))
        except ValueError:
            raise ValueError(_not_finite(config)) from None
        self.note = ""

    def outcome(self, options: RunOptions) -> dict[str, Any] | None:
        """The outcome of a finished stage to reuse, or None with the folder ready to run in.

        Sets ``note`` to one line for the user on what was found.

        Raises:
            ValueError: If the folder holds another configuration (and ``on_change`` is "error"),
                another kind of stage, a damaged ``stage.json``, or files that no stage of bido wrote.
        """
        saved = self._read()
        if saved is not None and saved["config"] != self.config and self._is_untouched(saved):
            saved = None
        self._check_kind(saved)
        remove_leftovers(self.directory)
        if saved is None or options.fresh:
            self._start_over()
            return None
        if changed := _differences(saved["config"], self.config):
            more = self._is_more(changed)
            if more and not self.stuck:
                self._write(None)
                self.note = f"continues ({_told(changed[0])})"
                return None
            if options.on_change == "error":
                reason = f", and {self.stuck}" if more else ""
                raise ValueError(
                    f"{self.directory} was made with another configuration ({_told(changed[0])})"
                    f"{reason}; choose another folder, or start over with --fresh"
                )
            self._start_over()
            self.note = f"configuration changed ({_told(changed[0])}), so it is run again"
            return None
        if saved["outcome"] is not None and self.product.is_file():
            self.note = "already done with this configuration, reused"
            outcome: dict[str, Any] = saved["outcome"]
            return outcome
        self.note = "continues where it was interrupted"
        return None

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Mark the stage as done; ``outcome`` is JSON-able."""
        self._write(outcome)

    def _is_untouched(self, saved: Mapping[str, Any]) -> bool:
        """Whether a run stopped before it made anything: a refused one binds nobody."""
        made = (name for name in _OWN_FILES if name != FILE)
        return saved["outcome"] is None and not any((self.directory / n).exists() for n in made)

    def _is_more(self, changed: Sequence[_Change]) -> bool:
        (key, old, new), *others = changed
        numbers = isinstance(old, int) and isinstance(new, int)
        return key == self.grows and not others and numbers and new > old

    def _check_kind(self, saved: Mapping[str, Any] | None) -> None:
        """A model is not started over by the attack on it, whatever the options say."""
        here, wanted = (saved or {"config": {}})["config"].get("stage"), self.config.get("stage")
        if saved is not None and here != wanted:
            raise ValueError(
                f"{self.directory} holds another stage ({here!r}, this is {wanted!r}); choose another "
                "folder"
            )

    def _start_over(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"{self.directory} must be a folder, it is a file")
        strangers = [name for name in _OWN_FILES if (self.directory / name).exists()]
        if strangers and not (self.directory / FILE).exists():
            raise ValueError(
                f"{self.directory} holds {strangers[0]} but no {FILE}, so its configuration is "
                "unknown; choose another folder"
            )
        for name in _OWN_FILES:
            (self.directory / name).unlink(missing_ok=True)
        self._write(None)

    def _write(self, outcome: Mapping[str, Any] | None) -> None:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config,
            "outcome": None if outcome is None else dict(outcome),
        }
        write_text(self.directory / FILE, json.dumps(document, indent=2) + "\n")

    def _read(self) -> dict[str, Any] | None:
        path = self.directory / FILE
        if not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            saved = None
        damaged = f"{path} is damaged; remove it and the files beside it"
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise ValueError(damaged)
        if saved.get("version") != VERSION:
            raise ValueError(f"{path} has version {saved.get('version')!r}, this is {VERSION!r}")
        if not {"config", "outcome"} <= saved.keys() or not isinstance(saved["config"], dict):
            raise ValueError(damaged)
        return saved


_Change = tuple[str, Any, Any]  # a key, its old and its new value


def _differences(old: Any, new: Any, where: str = "") -> list[_Change]:
    """What differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            change
            for key in keys
            for change in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [(where, old, new)]


def _told(change: _Change) -> str:
    key, old, new = change
    return f"{key}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}..."


def _not_finite(value: Any, where: str = "") -> str:
    """The sentence about the first number in ``value`` that JSON does not know."""
    if isinstance(value, Mapping):
        parts = [_not_finite(part, f"{where}.{key}".lstrip(".")) for key, part in value.items()]
        return next(filter(None, parts), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_not_finite(part, where) for part in value)), "")
    bad = isinstance(value, float) and not math.isfinite(value)
    return f"{where} must be a finite number, got {value}" if bad else ""
