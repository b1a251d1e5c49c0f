"""Build the C extension where there is a compiler; pyproject.toml holds all else."""

import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WITHOUT_C = (
    "mpsr: WARNING: its C extension was not built ({}). mpsr works without it, on Python alone, "
    "about three times slower. To build it, install a C compiler and Python's headers, then mpsr "
    "anew; `mpsr --version` tells which is in use.\n"
)


class BuildExtension(build_ext):
    """Build the extension, or say that it was not built."""

    def build_extension(self, ext: Extension) -> None:
        """Build it, or write why not, and raise: setuptools goes on, since it is optional."""
        try:
            super().build_extension(ext)
        except Exception as exc:
            sys.stderr.write(WITHOUT_C.format(exc))
            raise


setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        Extension(
            "mpsr._speedups._c",
            sorted(glob("src/mpsr/_speedups/*.c")),
            depends=sorted(glob("src/mpsr/_speedups/*.h")),
            extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],  # without symbols
            optional=True,
        )
    ],
)
