"""Build the C extension if there is a compiler; pyproject.toml has all other settings."""

import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WITHOUT_C = (
    "mpsr: WARNING: its C extension was not built ({}). mpsr works without it, in pure Python, but "
    "is about three times slower. To build it, install a C compiler and Python's headers, then "
    "reinstall mpsr; `mpsr --version` reports which of the two is in use.\n"
)


class BuildExtension(build_ext):
    """Build step that warns if the extension could not be built."""

    def build_extension(self, ext: Extension) -> None:
        """Build it, or write the reason and raise; setuptools skips an optional extension."""
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
