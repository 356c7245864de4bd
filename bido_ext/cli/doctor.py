# SPDX-License-Identifier: Apache-2.0
"""``bido doctor``: what is installed, which implementation serves which op, and what to fix."""

from __future__ import annotations

from dataclasses import asdict

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json


@plain_errors
def doctor(json: Json = False) -> None:
    """Check the installation.

    Shows which implementation each op uses on each device and why, the build, the machine and the
    versions. The last line says "all good", or names the one thing to fix. Then the exit code is 1.

    \b
    Example:
      bido doctor
      bido doctor --json
    """
    import bido_ext
    from bido_ext.diagnosis import findings, verdict
    from bido_ext.lab.experiments.environment import LAB_PACKAGES, machine_facts, package_versions
    from bido_ext.serving.report import backends_text

    versions, machine = package_versions(), machine_facts()
    missing = [name for name in LAB_PACKAGES if versions[name] == "not installed"]
    if json:
        print_json(
            {
                "backends": [asdict(row) for row in bido_ext.backends()],
                "build": bido_ext.build_info(),
                "machine": machine,
                "versions": versions,
                "lab_missing": missing,
                "to_fix": [one._asdict() for one in findings()],
            }
        )
        return
    typer.echo(backends_text(bido_ext.backends()))
    for title, facts in (
        ("build", bido_ext.build_info()),
        ("machine", machine),
        ("versions", versions),
    ):
        typer.echo(f"\n{title}")
        for key, value in facts.items():
            typer.echo(f"  {key:<18} {'none' if value == '' else value}")
    typer.echo(
        f'\nextra "lab": missing {", ".join(missing)}; run: pip install "bido-ext[lab]"'
        if missing
        else '\nextra "lab": complete'
    )
    told = verdict()
    typer.echo(f"\n{told}")
    if told != "all good":
        raise typer.Exit(1)
