"""Measuring a verifier with and without a drafter, on the machine at hand.

``runner`` produces records (``record``), ``measures`` turns records into figures, ``staircase`` and
``costs`` say where the time goes, ``report``, ``markdown``, ``pictures`` and ``compare`` show it.
"""
