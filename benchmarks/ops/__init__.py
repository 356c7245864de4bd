# SPDX-License-Identifier: Apache-2.0
"""The cases of each op, under the op's own stem."""
