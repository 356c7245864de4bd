# SPDX-License-Identifier: Apache-2.0
"""GANs that belong to one target: trained with its answers, and refused on another one.

``gan.pt`` holds the hash of the target's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bido_ext.lab.models.checkpoint import check_entries, load_checkpoint
from bido_ext.lab.models.wanted import Wanted

from .adversarial import FILE, STATE

GAN = Wanted("run_dir", "GAN", "another --prior folder; bido attack trains a GAN there")


@dataclass
class OwnedGan:
    """A trained prior, in eval mode.

    Attributes:
        target: ``weights_digest`` of the target it was trained for.
        history: generator step, discriminator loss and generator loss at every checkpoint.
        seconds: training time, earlier interrupted runs included.
    """

    generator: Any
    discriminator: Any
    target: str
    history: list[dict[str, float]]
    seconds: float
    path: Path


Made = TypeVar("Made", bound=OwnedGan)


@dataclass(frozen=True)
class Owner:
    """What one kind of such GANs is called.

    Attributes:
        kind: in the file.
        title: in errors.
    """

    kind: str
    title: str

    def inputs(self, digest: str, num_classes: int) -> dict[str, Any]:
        """What the file says of the target, for ``adversarial.train``."""
        return {"kind": self.kind, "num_classes": num_classes, "target": digest}

    def check(self, run_dir: Path, target: str) -> None:
        """Refuse a folder with the GAN of another target than the one of this digest.

        Raises:
            ValueError: it has one, or another kind of GAN.
        """
        path = Path(run_dir) / FILE
        if path.exists():
            owner = self._settings(load_checkpoint(path, GAN), path)["target"]
            if owner != target:
                raise ValueError(self.foreign(path, owner, target))

    def check_prior(self, gan: OwnedGan, target: str, force: bool) -> None:
        """Refuse ``gan`` for an attack on another target, unless it is forced.

        Raises:
            ValueError: see there.
        """
        if target != gan.target and not force:
            raise ValueError(self.foreign(gan.path, gan.target, target))

    def foreign(self, path: Path, owner: str, target: str) -> str:
        """What to tell of a GAN that belongs to another target."""
        return (
            f"the {self.title} GAN in {path} was trained for the target {owner[:12]}, this target "
            f"is {target[:12]}; train one for it in another folder. An attack with a foreign GAN "
            "does not adapt to the target and likely overstates its defence; to run it all the "
            "same, give --force-foreign-gan (force_foreign_gan=True)"
        )

    def load(
        self,
        run_dir: Path | str,
        networks: Callable[[dict[str, Any]], tuple[nn.Module, nn.Module]],
        made: type[Made],
    ) -> Made:
        """The finished GAN in ``run_dir``, whichever target it was trained for.

        Args:
            networks: settings of its training -> generator and discriminator.

        Raises:
            ValueError: no such file, another kind of file, or a training that is not finished.
        """
        path = Path(run_dir) / FILE
        content = load_checkpoint(path, GAN)
        settings = self._settings(content, path)
        check_entries(content, STATE, path, GAN)
        if content["step"] < settings["steps"]:
            raise ValueError(
                f"{path} is the GAN of a training that stopped at step {content['step']} of "
                f"{settings['steps']}; finish it with its own target first"
            )
        generator, discriminator = networks(settings)
        generator.load_state_dict(content["generator"])
        discriminator.load_state_dict(content["critic"])
        return made(
            generator.eval(), discriminator.eval(), settings["target"], content["history"],
            content["seconds"], path,
        )  # fmt: skip

    def _settings(self, content: Any, path: Path) -> dict[str, Any]:
        settings = content.get("settings") if isinstance(content, dict) else None
        if not isinstance(settings, dict) or settings.get("kind") != self.kind:
            raise GAN.refusal(path, f"is not a {self.title} GAN")
        check_entries(settings, {"target": str, "steps": int, "num_classes": int}, path, GAN)
        return settings
