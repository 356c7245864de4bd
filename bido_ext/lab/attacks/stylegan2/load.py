# SPDX-License-Identifier: Apache-2.0
"""Load StyleGAN2 weights that were trained elsewhere, without executing anything from the file.

The release keeps networks as pickles, which run code when they are read.  They are read once, where
they are trusted, and their ``G_ema.state_dict()`` is saved as .safetensors or by ``torch.save``;
that file is read here.  docs/attacks.md has the three lines.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from bido_ext.lab.models.safe_load import check_finite_weights, load_tensors, state_dict_of
from bido_ext.lab.models.wanted import Wanted

from .generator import StyleGan2
from .layers import fir

GENERATOR = Wanted(
    "path",
    "file of weights",
    "the G_ema.state_dict() of an unconditional StyleGAN2-ADA generator (docs/attacks.md)",
)


def load_stylegan2(path: Path | str, *, truncation: float = 1.0) -> StyleGan2:
    """The generator of a StyleGAN2-ADA state dict, in eval mode on the CPU.

    Architecture, resolution and widths are read off the weights.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` that holds tensors alone.
        truncation: psi of ``StyleGan2.mapping``; PPA uses 0.5.

    Raises:
        WeightsFileError: no such file, a pickle, a class-conditional generator, or other weights.
    """
    path = Path(path)
    state = _read(path)
    if any(name.startswith("mapping.embed") for name in state):
        raise GENERATOR.refusal(path, "holds a class-conditional generator")
    for name in [name for name in state if name.endswith("resample_filter")]:
        filter_ = state.pop(name)
        if filter_.shape != (4, 4) or not torch.allclose(filter_.float(), fir(torch.zeros(()))):
            raise GENERATOR.refusal(
                path, f"is of another network: {name} is not the filter [1, 3, 3, 1] of StyleGAN2"
            )
    try:
        generator = _build(state, truncation)
        generator.load_state_dict({name: value.float() for name, value in state.items()})
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise GENERATOR.refusal(
            path, f"does not hold the weights of a StyleGAN2-ADA generator ({reason[:300]})"
        ) from None
    return generator.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pkl":
        raise GENERATOR.refusal(path, "is a pickle, which would run code")
    state = state_dict_of(load_tensors(path, GENERATOR), path, GENERATOR)
    check_finite_weights(state, path, GENERATOR)
    return state


def _build(state: dict[str, Tensor], truncation: float) -> StyleGan2:
    """An untrained generator of the shape that the weights have."""
    block = re.compile(r"synthesis\.b(\d+)\.conv1\.weight")
    found = {m[1]: value for name, value in state.items() if (m := block.fullmatch(name))}
    channels = {int(side): value.shape[0] for side, value in found.items()}
    if not channels:
        raise KeyError("no weight synthesis.b4.conv1.weight")
    layers = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state)
    w_dim, z_dim = (
        state[f"mapping.fc{layers - 1}.weight"].shape[0],
        state["mapping.fc0.weight"].shape[1],
    )
    return StyleGan2(
        max(channels),
        channels,
        z_dim=z_dim,
        w_dim=w_dim,
        mapping_layers=layers,
        image_channels=state["synthesis.b4.torgb.weight"].shape[0],
        truncation=truncation,
    )
