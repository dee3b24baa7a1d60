"""counted: a number with its noun, as messages say it.

A leaf: whoever speaks to a person uses it, so that nobody reads of "1 files". It knows regular
nouns alone.
"""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless there is one.

    >>> counted(1, "restart"), counted(2_000, "record"), counted(0, "file")
    ('1 restart', '2,000 records', '0 files')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
