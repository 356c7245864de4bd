# SPDX-License-Identifier: Apache-2.0
"""Whole experiments: resumable stages, presets and recipes, demo, sweep and speed measurements."""
