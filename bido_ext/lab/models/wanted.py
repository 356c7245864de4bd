# SPDX-License-Identifier: Apache-2.0
"""Refusals of files of weights: the argument, the file, what was found, what is allowed.

The commands put the user's own option in the place of the argument (``bido_ext/cli/errors.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .file_kind import kind_of_file


class WeightsFileError(ValueError):
    """A file that a place cannot take.

    Attributes:
        path: The file.
        told: The message without the argument.
    """

    def __init__(self, argument: str, path: Path | str, told: str) -> None:
        super().__init__(f"{argument}: {told}")
        self.argument, self.path, self.told = argument, Path(path), told

    def __reduce__(self) -> tuple[type[WeightsFileError], tuple[str, Path, str]]:
        return type(self), (self.argument, self.path, self.told)  # between processes


@dataclass(frozen=True)
class Wanted:
    """What a place takes.

    Attributes:
        argument: Its name in Python.
        what: Such a file, as in "there is no checkpoint x.pt".
        allowed: What to give instead, as the end of a sentence.
    """

    argument: str
    what: str
    allowed: str

    def refusal(self, path: Path | str, found: str) -> WeightsFileError:
        """The error; ``found`` follows the name of the file."""
        return WeightsFileError(self.argument, path, f"{path} {found}; give {self.allowed}")

    def unreadable(self, path: Path, reason: str = "") -> WeightsFileError:
        """The error of a file that is damaged or of another kind, which its first bytes tell."""
        reason = reason or f"it is {kind_of_file(path) or 'no file of torch.save'}"
        again = "copy or download it again, or " if "cut short" in reason else ""
        told = f"{path} is not a readable {self.what} ({reason}); {again}give {self.allowed}"
        return WeightsFileError(self.argument, path, told)

    def damaged(self, path: Path | str, found: str) -> WeightsFileError:
        """The error of a file of ours that lacks something."""
        told = f"{path} is damaged, {found}; make it anew, or give {self.allowed}"
        return WeightsFileError(self.argument, path, told)

    def check_is_file(self, path: Path) -> None:
        """Raise unless there is such a file."""
        if path.is_file():
            return
        if path.exists():
            raise WeightsFileError(
                self.argument, path, f"{path} is no file; give a {self.what} in it: {self.allowed}"
            )
        raise WeightsFileError(
            self.argument, path, f"there is no {self.what} {path}; give {self.allowed}"
        )


MODEL = Wanted(
    "path", "checkpoint", "the model.pt of bido train, or a file of the BiDO authors' code"
)
RUN = Wanted("run_dir", "checkpoint", "another folder, or delete the file to start over")
PRETRAINED = Wanted(
    "pretrained",
    "file of weights",
    "a state dict or checkpoint that torch.save wrote, a .safetensors file, or a model.pt",
)
