"""Build the C extension if there is a compiler; pyproject.toml has all other settings."""

import os
import shutil
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WITHOUT_C = (
    "mpsr: WARNING: its C extension was not built ({why}). mpsr works without it, in pure Python, "
    "but is about three times slower. To build it, {advice}, then reinstall mpsr; `mpsr --version` "
    "reports which of the two is in use.\n"
)


def advice() -> str:
    """Return what to do about a failed build: install what is missing, if anything is."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    missing = [] if shutil.which(compiler) else [f"a C compiler ({compiler} is not installed)"]
    folders = [sysconfig.get_path(name) for name in ("include", "platinclude")]
    if not any(os.path.exists(os.path.join(folder, "Python.h")) for folder in folders):
        missing.append(f"Python's headers (there is no {folders[0]}/Python.h)")
    return f"install {' and '.join(missing)}" if missing else "correct what the compiler reports"


class BuildExtension(build_ext):
    """Build step that warns if the extension could not be built."""

    def build_extension(self, ext: Extension) -> None:
        """Build it, or write the reason and raise; setuptools skips an optional extension."""
        try:
            super().build_extension(ext)
        except Exception as exc:
            sys.stderr.write(WITHOUT_C.format(why=exc, advice=advice()))
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
