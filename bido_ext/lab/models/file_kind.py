# SPDX-License-Identifier: Apache-2.0
"""What a file is that cannot be read as weights: told by its first bytes, nothing is executed."""

from __future__ import annotations

import zipfile
from pathlib import Path

_HEAD = 512
_SHOWN = 30
# torch.save before PyTorch 1.6 begins with this pickled number.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer; git lfs pull brings the file itself"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"%PDF", "a PDF"),
    (_OLD_TORCH, "a file of torch.save of before PyTorch 1.6, damaged or cut short"),
    (b"\x80", "a pickle that torch.save did not write"),
)


def kind_of_file(path: Path) -> str | None:
    """What ``path`` is, as the end of "it is ..."; None where its first bytes do not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file"
    if head.startswith(b"PK"):
        return _kind_of_zip(path, size)
    if head[8:10] == b'{"':
        return _kind_of_safetensors(path, size, int.from_bytes(head[:8], "little"))
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    return _kind_of_text(head)


def _kind_of_zip(path: Path, size: int) -> str:
    if not zipfile.is_zipfile(path):
        return f"a zip archive, as torch.save writes it, cut short at {size} bytes"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a damaged zip archive"
    if not any(name.endswith("data.pkl") for name in names):
        return f"a zip archive of other files ({', '.join(names[:3]) or 'none'})"
    if path.suffix == ".safetensors":
        return "a file of torch.save; its name must end in .pt or .pth"
    return "a file of torch.save with damaged content"


def _kind_of_safetensors(path: Path, size: int, header: int) -> str:
    if header > size:
        return f"a safetensors file cut short at {size} bytes"
    if path.suffix != ".safetensors":
        return "a safetensors file; its name must end in .safetensors"
    return "a safetensors file, damaged or cut short"


def _kind_of_text(head: bytes) -> str | None:
    # A character of several bytes may be cut at the end of the head.
    text = head.decode("utf-8", "ignore")
    if len(text.encode()) < len(head) - 3 or not (text.isprintable() or _is_lines(text)):
        return None
    if text.lstrip().lower().startswith(("<!doctype html", "<html")):
        return "a web page, as a failed download leaves it"
    first = text.strip().splitlines()[0] if text.strip() else ""
    shown = first[:_SHOWN] + ("..." if len(first) > _SHOWN else "")
    return f'a text file that begins with "{shown}"' if shown else "a text file of blanks"


def _is_lines(text: str) -> bool:
    return all(sign.isprintable() or sign in "\n\r\t\f" for sign in text)
