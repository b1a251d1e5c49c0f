"""Take pictures of built pages, as a desktop and a telephone show them, in both colour schemes.

python docs/look.py FOLDER [PAGE...]: a picture a page, width and scheme, in FOLDER/look. It takes
chromium, which has no window narrower than 500 pixels: a page stands in a frame.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

WIDTHS: Final = (1280, 390)  # pixels
HEIGHT: Final = 2000  # pixels
SCHEMES: Final = {"dark": 0, "light": 1}  # as Chromium's preferredColorScheme counts them
CHROMIUM: Final = (
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=3000",
)


def main(folder: str, *pages: str) -> None:
    """Take them of all pages, if none is named."""
    site, look = Path(folder).resolve(), Path(folder, "look").resolve()
    look.mkdir(exist_ok=True)
    frame = site / "frame.html"
    found = [str(each.relative_to(site)) for each in sorted(site.rglob("*.html")) if each != frame]
    for page in pages or found:
        for width in WIDTHS:
            style = f"border:0;width:{width}px;height:{HEIGHT}px"
            frame.write_text(
                f'<body style="margin:0"><iframe src="{page}" style="{style}"></iframe>'
            )
            for scheme, number in SCHEMES.items():
                picture = (
                    look / f"{page.removesuffix('.html').replace('/', '-')}-{width}-{scheme}.png"
                )
                command = [
                    *CHROMIUM,
                    f"--blink-settings=preferredColorScheme={number}",
                    f"--window-size={max(width, 500)},{HEIGHT}",
                    f"--screenshot={picture}",
                    frame.as_uri(),
                ]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                sys.stdout.write(f"{picture}\n")
    frame.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
