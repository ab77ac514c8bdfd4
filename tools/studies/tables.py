"""Markdown tables between two markers, ``<!-- table NAME -->`` and ``<!-- end -->``."""

import re
from collections.abc import Callable

from castling_det.errors import InputError

_TABLE = re.compile(r'(?<=<!-- table )([^>]+?)( -->\n)(.*?)(?=<!-- end -->)', re.DOTALL)


def fill_tables(text: str, rows: Callable[[str], list[list[str]]]) -> str:
    """Replace what stands between the markers of each table.

    Args:
        text (str): Markdown.
        rows (Callable): Gives the header and the rows of the table of a name.

    Raises:
        InputError: If a table has no end, or no row below its header.
    """
    if text.count('<!-- table ') != len(_TABLE.findall(text)):
        raise InputError('a table lacks its <!-- end -->')

    def fresh(found: re.Match) -> str:
        header, *body = rows(found[1])
        if not body:
            raise InputError(f'there is nothing to put into the table {found[1]!r}')
        lines = [header, ['---'] * len(header), *body]
        return found[1] + found[2] + ''.join(f'| {" | ".join(line)} |\n' for line in lines)

    return _TABLE.sub(fresh, text)
