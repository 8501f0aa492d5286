"""Files that come with the program and are no code: the lists of data sets and the settings of ZeRO.

Each stands once in the source tree, where users know it: anno_data/ and shell/deepspeed/. A wheel has them inside the
package (setup.py puts them there), under the same names.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(path: str | Path) -> Path:
    """The file or folder of that name, such as shell/deepspeed/zero1.json, whatever the working folder is."""
    inside = PACKAGE / path
    return inside if inside.exists() else PACKAGE.parent / path
