# SPDX-License-Identifier: Apache-2.0
"""What the rest of the lab and the command line know of an attack: a row of the registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .result import Reconstructions

Access = Literal["white box", "black box", "label only"]


@dataclass(frozen=True)
class PriorSpec:
    """A generator that is trained on the attacker's public images.

    Attributes:
        config: class of the settings of its training.
        train: ``train(config, public, run_dir, progress=, device=)``; with the target after the
            configuration where it is ``of_target``, as a ``BlackBox`` for an attack without its
            weights. A ``budget`` in its settings is that of the whole attack, and ``queries`` of
            what it returns count into it.
        of_target: whether it belongs to one target; otherwise one serves the attacks on all.
        check_owner: ``check_owner(run_dir, digest)`` raises ValueError where the folder has that of
            another target than the one of this digest.
        load: the finished one of a folder, whichever its target.
        presets: settings by preset; the class's defaults for one that is not named.
    """

    config: Callable[..., Any]
    train: Callable[..., Any]
    of_target: bool = False
    check_owner: Callable[[Path, str], None] | None = None
    load: Callable[[Path], Any] | None = None
    presets: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, preset: str) -> Any:
        """The settings of ``preset``."""
        return self.presets[preset] if preset in self.presets else self.config()


@dataclass(frozen=True)
class AttackSpec:
    """One attack.

    Attributes:
        name: as on the command line.
        description: one line, with its source.
        access: what it needs of the target: its weights, its probabilities for images it asks
            about, or their labels alone. Without the weights it is given a ``BlackBox``.
        config: class of its settings.
        run: ``run(config, target, prior, classes, run_dir=, progress=, device=)``.
        prior: the generator that is trained for it.
        any_generator: ``run`` takes a bare ``LatentGenerator``: that of the prior, or one from a
            file.
        truncation: psi of a StyleGAN2 from a file, unless another is asked for.
        file_only: settings that make sense with a generator from a file alone, and their values
            with one that is trained here.
        resizes: ``run`` takes ``input_size=``, the side of the target's images.
        sees_public: ``run`` takes ``public=``, the attacker's images.
        presets: settings by preset; the class's defaults (those published) for one not named.
    """

    name: str
    description: str
    access: Access
    config: Callable[..., Any]
    run: Callable[..., Reconstructions]
    prior: PriorSpec
    any_generator: bool = False
    truncation: float = 1.0
    file_only: Mapping[str, Any] = field(default_factory=dict)
    resizes: bool = False
    sees_public: bool = False
    presets: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, preset: str) -> Any:
        """The settings of ``preset``."""
        return self.presets[preset] if preset in self.presets else self.config()
