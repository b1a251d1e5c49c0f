"""Build what is in C where there is a compiler; pyproject.toml holds all else."""

from setuptools import Extension, setup

FLAGS = ["-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "mpsr.wire._codec",
            ["src/mpsr/wire/_codec.c"],
            extra_compile_args=["-std=c11", *FLAGS],
            optional=True,  # without it mpsr works on the Python twin
        ),
        Extension(
            "mpsr._ring",
            ["src/mpsr/_ring.c"],
            extra_compile_args=["-std=gnu11", *FLAGS],  # gnu: it is for Linux alone
            optional=True,  # without it all goes through the socket
        ),
    ]
)
