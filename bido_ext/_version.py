# SPDX-License-Identifier: Apache-2.0
"""The version, told here alone: pyproject.toml, the build and the package read it."""

__version__ = "0.2.0"
