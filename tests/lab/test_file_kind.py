# SPDX-License-Identifier: Apache-2.0
"""What a file is that is no file of weights, by its first bytes."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest
import torch

from bido_ext.lab.models.file_kind import kind_of_file
from bido_ext.lab.models.wanted import MODEL, WeightsFileError


def _torch(**how) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(400)}, stream, **how)
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("notes/readme.md", "x")
    return stream.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[400],"data_offsets":[0,1600]}}'
SAFE = len(HEADER).to_bytes(8, "little") + HEADER


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("w.zip", _zip(), "a zip archive of other files (notes/readme.md)"),
        ("w.safetensors", _torch(), "a file of torch.save; its name must end in .pt or .pth"),
        ("w.pt", _torch()[:-1000], "a zip archive, as torch.save writes it, cut short at"),
        ("w.pt", _torch(_use_new_zipfile_serialization=False)[:300], "of before PyTorch 1.6, dam"),
        ("w.safetensors", SAFE[:30], "a safetensors file cut short at 30 bytes"),
        ("w.safetensors", SAFE, "a safetensors file, damaged or cut short"),
        ("w.pth", SAFE, "a safetensors file; its name must end in .safetensors"),
        ("w.pth", b" \n\n", "a text file of blanks"),
        ("w.pth", ("grün, " * 99).encode(), 'begins with "grün, grün, grün, grün, grün, ..."'),
        ("w.pth", b"\x1f\x8b\x08", "compressed by gzip; unpack it first"),
    ],
)
def test_kinds(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert kind in kind_of_file(tmp_path / name)


def test_bytes_that_say_nothing(tmp_path):
    (tmp_path / "w.pt").write_bytes(bytes(range(255, 100, -1)))
    assert kind_of_file(tmp_path / "w.pt") is None
    told = str(MODEL.unreadable(tmp_path / "w.pt"))
    assert "it is no file of torch.save); give the model.pt" in told


def test_the_error_passes_between_processes():
    error = WeightsFileError("path", "a.pt", "a.pt is none")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.told) == ("path: a.pt is none", error.path, error.told)
