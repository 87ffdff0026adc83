"""The machine: its processors and who else uses them, its devices, other machines."""
