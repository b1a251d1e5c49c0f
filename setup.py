"""Build what is in C where there is a compiler; pyproject.toml holds all else."""

from setuptools import Extension, setup


def extension(name: str) -> Extension:
    """Return one that may fail to build: without it mpsr works on Python alone."""
    source = f"src/{name.replace('.', '/')}.c"
    return Extension(
        name,
        [source],
        depends=["src/mpsr/wire/_frame.h"],
        extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
        optional=True,
    )


MODULES = ["mpsr.wire._codec", "mpsr._direct", "mpsr._ring", "mpsr._sigmask", "mpsr._timer"]

setup(ext_modules=[extension(name) for name in MODULES])
