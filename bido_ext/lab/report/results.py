# SPDX-License-Identifier: Apache-2.0
"""``results.json``, format ``bido_ext.results`` version 1.

Accuracies are fractions in [0, 1], times are seconds, distances are squared units of the
evaluator's features; ``null`` means "not defined" (a spread over one restart).  A reader must
refuse a higher version.

    format, version     "bido_ext.results", 1
    created             UTC time, ISO 8601
    command             the command line that made the run
    preset, seed        name of the preset; seed of every stage
    seconds             compute time of all stages, also of those done in an earlier, resumed call
    machine, versions   facts of the machine; package -> version
    task                data set, classes, set sizes, chance_attack_accuracy
    config              stage -> every setting of it (data, evaluator, prior, attack)
    evaluator           {arch, test_accuracy, required_accuracy, seconds}: the precondition
    rows                one for each attacked model:
        name            folder name, unique within the run
        defence         key of ``bido_ext.lab.defences.DEFENCES``
        label           the same for people
        weights         weight -> value; rows of one defence form a sweep
        natural_accuracy, val_accuracy
                        on the private test set; on the validation split that selected the epoch
        attack          ``AttackMetrics``: attack_accuracy, std_over_restarts, ci_low, ci_high,
                        ci_method, attack_accuracy_top5, top5_std_over_restarts, knn_distance,
                        feature_distance, frechet_distance, frechet_reconstructions,
                        frechet_private, frechet_features, restarts, classes, and per_class: a list
                        of {label, attack_accuracy, attack_accuracy_top5, knn_distance,
                        feature_distance}; identity_ci_low, identity_ci_high, identity_ci_method
                        (an interval that resamples identities), frechet_inception and draws
                        (images of one search), precision, recall, density and coverage
                        (within each class), lpips, which files of earlier releases lack
        target_confidence
                        mean probability the attacked model gives its own reconstructions
        picture         path of the PNG, relative to ``results.json``
        seconds         {training, attack}
        config          every training setting of this model
        commands        the single ``bido`` commands that repeat this row
        second          null, or the second judge {arch, test_accuracy, opinion: {attack_accuracy,
                        identity_ci_low, identity_ci_high, both, only_first, only_second,
                        disagreement, kappa}}; files of earlier releases lack it
        adaptive        the same model under adaptive attackers, a list of {kind, attack,
                        target_confidence, picture, seconds, config}; ``kind`` is what the attack
                        ran on, ``config`` how that was made; files of earlier releases lack it
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.judging import AttackMetrics, ClassMetrics, SecondJudge, SecondOpinion

FORMAT, VERSION = "bido_ext.results", 1


@dataclass(frozen=True)
class EvaluatorResult:
    """The evaluation classifier and the accuracy it must reach to be believed."""

    arch: str
    test_accuracy: float
    required_accuracy: float
    seconds: float

    @property
    def is_met(self) -> bool:
        """Whether the precondition holds."""
        return self.test_accuracy >= self.required_accuracy


@dataclass(frozen=True)
class AdaptiveAttack:
    """The attack on one model once more, run on what stands in for it; see the module."""

    kind: str
    attack: AttackMetrics
    target_confidence: float
    picture: str
    seconds: float
    config: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _as_read(self.config))


@dataclass(frozen=True)
class Row:
    """One attacked model; the fields are documented in the module."""

    name: str
    defence: str
    label: str
    weights: dict[str, float]
    natural_accuracy: float
    val_accuracy: float
    attack: AttackMetrics
    target_confidence: float
    picture: str
    seconds: dict[str, float]
    config: dict[str, Any]
    commands: tuple[str, ...]
    second: SecondJudge | None = None
    adaptive: tuple[AdaptiveAttack, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _as_read(self.config))

    @property
    def stop(self) -> float:
        """Share of its training after which it was stopped; 1: it was not."""
        return float(self.config.get("stop", 1.0))

    @property
    def weights_text(self) -> str:
        """The weights for a table, "-" if there are none."""
        if not self.weights and self.stop < 1:
            return f"stopped at {100 * self.stop:g}%"
        return ", ".join(f"{name} {value:g}" for name, value in self.weights.items()) or "-"

    @property
    def attacks(self) -> dict[str, AttackMetrics]:
        """What every attacker reached: "" is the one that runs on the model itself."""
        return {"": self.attack, **{one.kind: one.attack for one in self.adaptive}}


@dataclass(frozen=True)
class Results:
    """One run; the fields are documented in the module."""

    created: str
    command: str
    preset: str
    seed: int
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    task: dict[str, Any]
    config: dict[str, dict[str, Any]]
    evaluator: EvaluatorResult
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _as_read(self.config))

    @property
    def undefended(self) -> Row | None:
        """The row of the model without a defence, trained to the end."""
        return next((row for row in self.rows if row.defence == "none" and row.stop == 1), None)

    @property
    def attackers(self) -> tuple[str, ...]:
        """Kinds of adaptive attackers that every row met."""
        first = self.rows[0].attacks if self.rows else {}
        return tuple(
            kind for kind in first if kind and all(kind in row.attacks for row in self.rows)
        )

    def under(self, kind: str) -> Results:
        """The run as the adaptive attacker ``kind`` found it: its numbers as those of each row."""
        return self._with({row.name: row.attacks[kind] for row in self.rows})

    def under_the_strongest(self) -> Results:
        """The run with the numbers of the attacker that did best, row by row."""
        best = {}
        for row in self.rows:
            met = [row.attack, *(row.attacks[kind] for kind in self.attackers)]
            best[row.name] = max(met, key=lambda attack: attack.attack_accuracy)
        return self._with(best)

    def _with(self, attacks: dict[str, AttackMetrics]) -> Results:
        rows = tuple(
            replace(row, attack=attacks[row.name], second=None, adaptive=()) for row in self.rows
        )
        return replace(self, rows=rows)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Any) -> Results:
        """Rebuild from a JSON document.

        Raises:
            ValueError: If it is not a results document, of a newer version, or lacks a field.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f'results must be a JSON object with "format": "{FORMAT}"')
        if document.get("version") != VERSION:
            raise ValueError(
                f"results must have version {VERSION}, got {document.get('version')}; a newer "
                "bido_ext wrote them"
            )
        try:
            fields = {key: document[key] for key in cls.__dataclass_fields__}
            fields["evaluator"] = EvaluatorResult(**fields["evaluator"])
            fields["rows"] = tuple(_row(row) for row in fields["rows"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"results lack a field or have a wrong one: {error}") from None
        return cls(**fields)


def _as_read(config: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from the file, where tuples are lists."""
    read: dict[str, Any] = json.loads(json.dumps(config))
    return read


def _metrics(document: dict[str, Any]) -> AttackMetrics:
    attack = dict(document)
    attack["per_class"] = tuple(ClassMetrics(**row) for row in attack["per_class"])
    attack["classes"] = tuple(attack["classes"])
    return AttackMetrics(**attack)


def _row(document: dict[str, Any]) -> Row:
    rest: dict[str, Any] = {
        "attack": _metrics(document["attack"]),
        "adaptive": tuple(
            AdaptiveAttack(**{**one, "attack": _metrics(one["attack"])})
            for one in document.get("adaptive", ())
        ),
        "commands": tuple(document["commands"]),
    }
    if (judge := document.get("second")) is not None:
        rest["second"] = SecondJudge(**{**judge, "opinion": SecondOpinion(**judge["opinion"])})
    return Row(**{**document, **rest})


def write_results(results: Results, path: Path) -> Path:
    """Write ``results.json`` atomically and return its path."""
    return write_text(path, json.dumps(results.to_dict(), indent=2, allow_nan=False) + "\n")


def read_results(path: Path) -> Results:
    """Read ``results.json``.

    Raises:
        ValueError: If the file is not JSON or not a results document of this version.
        FileNotFoundError: If there is no such file.
    """
    try:
        return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
