# SPDX-License-Identifier: Apache-2.0
"""Checks on arguments: each error names the argument, what was given and what is allowed."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
#: Of which PyTorch computes next to nothing.
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def readable(*tensors: Tensor) -> bool:
    """Whether looking at values is free and possible: on the CPU, outside of torch.compile, and not where
    they are traced or fake (make_fx, FakeTensorMode and other dispatch modes)."""
    return (
        all(t.device.type == "cpu" for t in tensors)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not any(isinstance(t, torch._subclasses.FakeTensor) for t in tensors)
    )


def is_labels(y: Tensor) -> bool:
    """Whether y is a vector of integer class labels."""
    return y.dtype in INTEGERS


def _instead(x: Tensor, name: str) -> str:
    """What to do with features of a dtype that is none, for an error."""
    if x.dtype == torch.bool and name == "y":
        return ": turn boolean labels into integers, y.long(), or several at once (n, e) into y.float()."
    if is_labels(x) and name == "y":
        return ": class labels have no place here, only features: y.float(), or one-hot rows of labels."
    if x.dtype in UNSIGNED and name == "y":
        return ": turn labels into y.long(), features into y.float()."
    if x.is_quantized:
        return f": give {name}.dequantize()."
    if x.dtype == torch.bool or is_labels(x):
        return f": integer labels are allowed for y only, as a vector (n,). Features are {name}.float()."
    return f": give {f'torch.view_as_real({name}).flatten(1)' if x.is_complex() else f'{name}.float()'}."


def _two_dims(x: Tensor, name: str) -> str:
    """How features get their two dimensions, for an error."""
    if x.dim() > 2:
        return f"flatten it first, {name}.flatten(1)"
    column = f"one number a sample is a column, {name}[:, None]" if x.dim() else "it has no samples"
    return f"class labels are integers, y.long(); {column}" if name == "y" and x.dim() else column


def _one_dim(y: Tensor, name: str) -> str:
    """How integer labels become a vector, for an error."""
    if y.dim() == 2 and y.shape[1] == 1:
        return f"give {name}.squeeze(1)"
    if y.dim() == 2:
        return f"one-hot rows become labels by {name}.argmax(1), or targets by {name}.float()"
    return f"give one label a sample, {name}.flatten()"


def check_strided(x: Tensor, name: str) -> None:
    """A tensor with memory of its own for each element: not sparse, nested or of a vendor's layout."""
    if x.is_nested:
        raise ValueError(
            f"{name} must be a dense tensor, got a nested one, whose samples differ in shape: pad it, "
            "torch.nested.to_padded_tensor(t, 0.0), or pool each sample to one vector."
        )
    if x.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got layout {x.layout}: call .to_dense().")


def check_num_classes(num_classes: object) -> int | None:
    """A positive integer or None."""
    if num_classes is None:
        return None
    num_classes = check_integer(num_classes, "num_classes")
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes}.")
    return num_classes


def check_features(x: object, name: str, minimum_rows: int = 1) -> Tensor:
    """(n, d) floating-point features with n >= minimum_rows and d >= 1."""
    if not isinstance(x, Tensor):
        way = f": give torch.as_tensor({name})" if hasattr(x, "__array__") or _is_list(x) else ""
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}{way}.")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{name} must be float64, float32, bfloat16 or float16, got {x.dtype}{_instead(x, name)}"
        )
    check_strided(x, name)
    if x.dim() != 2:
        raise ValueError(
            f"{name} must have shape (n, d), got {tuple(x.shape)}: {_two_dims(x, name)}."
        )
    if x.shape[1] < 1:
        raise ValueError(f"{name} has no features: shape {tuple(x.shape)}, d must be at least 1.")
    if minimum_rows == 1 and x.shape[0] == 0:
        raise ValueError(f"{name} has 0 sample(s), at least 1 is needed.")
    if x.shape[0] < minimum_rows:
        raise ValueError(
            f"{name} has {x.shape[0]} sample(s), at least {minimum_rows} are needed to center. The last "
            "batch of an epoch may be smaller: give the DataLoader drop_last=True."
        )
    return x


def check_labels(y: Tensor, name: str, num_classes: int | None) -> Tensor:
    """(n,) integer labels; with num_classes and on the CPU their range is checked too."""
    check_strided(y, name)
    if y.dim() != 1:
        raise ValueError(
            f"{name} holds integers, so it must be a vector of labels (n,), got {tuple(y.shape)}: "
            f"{_one_dim(y, name)}."
        )
    # Reading a device tensor's values would stop the host; torch.compile cannot branch on them.
    if readable(y) and y.numel() > 0:
        low, high = int(y.min()), int(y.max())
        if low < 0 or (num_classes is not None and high >= num_classes):
            allowed = f"0..{num_classes - 1}" if num_classes is not None else "non-negative"
            way = (
                " Leave out samples without a label, such as those of ignore_index."
                if low < 0
                else ""
            )
            raise ValueError(f"{name} has labels from {low} to {high}; allowed: {allowed}.{way}")
    return y


def check_same_samples(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Both arguments hold the same number of samples on the same device."""
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{x_name} and {y_name} must have the same number of samples, "
            f"got {x.shape[0]} and {y.shape[0]}."
        )
    if x.device != y.device:
        raise ValueError(
            f"{x_name} is on {x.device} and {y_name} on {y.device}: move them to one device."
        )


def check_gram(K: object, name: str) -> Tensor:
    """A square float32 or float64 matrix."""
    if not isinstance(K, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(K).__name__}.")
    if K.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} must be float32 or float64, got {K.dtype}: a Gram matrix loses its "
            "information below float32."
        )
    check_strided(K, name)
    if K.dim() != 2 or K.shape[0] != K.shape[1] or K.shape[0] < 1:
        raise ValueError(f"{name} must be a square matrix (n, n), got {tuple(K.shape)}.")
    return K


def check_choice(value: object, name: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
    return str(value)


def check_bool(value: object, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}.")
    return value


def check_positive(value: object, name: str, way: str = "") -> float:
    """A finite number above zero; ``way`` ends the error of one that is not."""
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    if not 0 < number < float("inf"):
        shown = number if number == float("inf") else value
        raise ValueError(f"{name} must be positive and finite, got {shown}.{way}")
    return number


def as_number(value: object) -> float | None:
    """A float of Python's or numpy's numbers, infinite if it is too large for one; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def check_integer(value: object, name: str) -> int:
    """An integer of Python's or numpy's, as one of Python's."""
    number = integer_or_none(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}.")
    return number


def integer_or_none(value: object) -> int | None:
    """An integer of Python's or numpy's, as one of Python's; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
        return None
    return value if isinstance(value, int) else int(value)


def _is_list(x: object) -> bool:
    return isinstance(x, (list, tuple))
