"""The runtime: tasks, the channels between them, and the worker process that drives both.

``task`` steps, ``chain`` calls operators, ``channel`` spends credit, ``align`` waits for barriers;
``worker`` and ``transport`` make processes of it. It obeys commands and reports; who decides, and
why, it does not know.
"""
