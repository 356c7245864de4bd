# SPDX-License-Identifier: Apache-2.0
"""Settings as frozen dataclasses whose fields pydantic checks; its findings in one sentence each.

    @checked
    class Config:
        steps: Count = 100
        lr: Positive = 1e-3

``Config(lr=0)`` raises ``ValueError: lr must be positive, got 0``. What concerns several fields at once is
checked in ``__post_init__``.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")

#: How often, how many: at least 1.
Count = Annotated[int, Field(ge=1)]
#: At least 2, as batch normalisation needs.
Several = Annotated[int, Field(ge=2)]
#: A number that may be 0, of things (``0`` often stands for no limit) or as a weight.
Number = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
#: A momentum or the like, in [0, 1).
Share = Annotated[float, Field(ge=0, lt=1)]
#: A share that is not nothing, in (0, 1].
Part = Annotated[float, Field(gt=0, le=1)]
#: Lists of a file become tuples.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Numbers = Annotated[tuple[int, ...], Field(strict=False)]

#: Values as they are meant: no "5" for 5, no nan, no unknown names.
CONFIG = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass of ``cls`` that raises ValueError where a field is not what its annotation says."""
    made: Any = dataclass(frozen=True, config=CONFIG)(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **values: Any) -> None:
        try:
            init(self, *args, **values)
        except ValidationError as error:
            names = [field.name for field in fields(made)]
            # An unknown key first: it is most often the missing one, mistyped.
            found = sorted(error.errors(), key=lambda e: e["type"] == "missing")
            raise ValueError("; ".join(_sentence(e, names) for e in found)) from None

    made.__init__ = checked_init
    return made  # type: ignore[no-any-return]


#: What a value must be, by the kind of pydantic's finding.
_MUST = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "one of {expected}",
    "too_short": "a list of at least {min_length}",
}


def _sentence(error: Any, names: Sequence[str]) -> str:
    """One finding in words; ``names`` are the fields in the order of positional arguments."""
    kind, context, place = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "value_error":  # of __post_init__, in words already
        return str(context["error"])
    name = names[place[0]] if isinstance(place[0], int) else str(place[0])
    if kind == "unexpected_keyword_argument":
        near = difflib.get_close_matches(name, names, n=1)
        return f"unknown key {name!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        )
    if kind == "missing":
        return f"the key {name!r} is missing"
    name += "".join(f"[{part!r}]" for part in place[1:])
    bounds = {key: f"{v:g}" if isinstance(v, float) else v for key, v in context.items()}
    if kind == "greater_than" and context["gt"] == 0:
        return f"{name} must be positive, got {error['input']!r}"
    must = _MUST.get(kind, "of type " + kind.removesuffix("_type").removesuffix("_parsing"))
    return f"{name} must be {must.format(**bounds)}, got {error['input']!r}"
