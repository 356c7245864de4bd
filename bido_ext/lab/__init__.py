# SPDX-License-Identifier: Apache-2.0
"""Train, attack and judge classifiers: the thin layer around the dependence measures.

Needs the extra ``lab`` (torchvision, torchmetrics, matplotlib, tqdm, platformdirs);
``import bido_ext`` itself never imports this package.
"""
