# SPDX-License-Identifier: Apache-2.0
"""Who serves an op: registry, check, measurement, choice and report. No op is known by name.

An op says in bido_ext/rows/<op>.py which implementations it has, what each of them takes, how a result is
checked and how its backward is called. What is done with that:

- :mod:`~bido_ext.serving.row`: the registry;
- :mod:`~bido_ext.serving.libraries`: loads the compiled libraries, and says why one does not load;
- :mod:`~bido_ext.serving.implementations`: the functions of an implementation;
- :mod:`~bido_ext.serving.comparison`: what that check compares with;
- :mod:`~bido_ext.serving.check`: an implementation against the float64 reference;
- :mod:`~bido_ext.serving.measure`: how long a step takes;
- :mod:`~bido_ext.serving.first_run`: which candidate ended a process when it was timed;
- :mod:`~bido_ext.serving.verdicts`: what checks and measurements found, kept on disk;
- :mod:`~bido_ext.serving.choose`: the choice on a GPU; :mod:`~bido_ext.serving.on_cpu`: on the CPU;
- :mod:`~bido_ext.serving.report`: the table of ``python -m bido_ext``.
"""
