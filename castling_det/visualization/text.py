"""Class names in pictures, whatever their letters."""

import logging
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log

PLAIN = str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf')


@cache
def font_of(text: str) -> str | None:
    """File of a font that has every letter of a text: matplotlib's DejaVu, or one of the system.

    None where there is no such font.
    """
    letters = {ord(letter) for letter in text if not letter.isspace()}
    if letters <= _letters_of(PLAIN):
        return PLAIN
    return next((font for font in sorted(findSystemFonts()) if letters <= _letters_of(font)), None)


@cache
def _letters_of(font: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(font).get_charmap())
    except (OSError, RuntimeError):  # of a kind that FreeType does not know
        return frozenset()


@cache
def legible(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes; 'class NUMBER' where no font has the letters, with one warning."""
    strange = [number for number, name in enumerate(classes) if font_of(name) is None]
    if strange:
        names = ', '.join(f'class {number}: {classes[number]}' for number in strange)
        print_log(
            f'no font on this machine has the letters of some class names; pictures have numbers '
            f'for them ({names}): install a font of that script, as fonts-noto-cjk',
            logger='current',
            level=logging.WARNING,
        )
    return tuple(
        f'class {number}' if number in strange else name for number, name in enumerate(classes)
    )


@cache
def families(names: tuple[str, ...]) -> list[str]:
    """Families of the fonts that legible names need, for matplotlib's ``font.sans-serif``."""
    fonts = dict.fromkeys([PLAIN, *filter(None, map(font_of, names))])
    for font in list(fonts)[1:]:
        fontManager.addfont(font)
    return [FT2Font(font).family_name for font in fonts]
