"""Build the C twin of the codec where there is a compiler; pyproject.toml holds all else."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "mpsr.wire._codec",
            ["src/mpsr/wire/_codec.c"],
            extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            optional=True,  # without it mpsr works on the Python twin
        )
    ]
)
