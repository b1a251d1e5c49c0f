"""Build the C extension where there is a compiler; pyproject.toml holds all else."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "mpsr._speedups._c",
            sorted(glob("src/mpsr/_speedups/*.c")),
            depends=sorted(glob("src/mpsr/_speedups/*.h")),
            extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            optional=True,  # without it mpsr works on Python alone
        )
    ]
)
