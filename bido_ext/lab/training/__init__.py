# SPDX-License-Identifier: Apache-2.0
"""Training of classifiers: settings, batches, optimisers, the loop."""
