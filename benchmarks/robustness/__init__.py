"""What ``benchmarks/robustness.py`` is made of: a parent process, its children, their checks."""
