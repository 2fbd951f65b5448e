"""The dense CRF compiled for the CPU by numba. README.md in this folder says how it works and where to begin."""
