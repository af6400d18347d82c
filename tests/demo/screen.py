"""What the demo prints: headings, tables, and marks that stay readable without colour."""

import os
import sys
import unicodedata

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36"}


def paint(text, *styles):
    if not COLOUR or not styles:
        return str(text)
    return f"\033[{';'.join(STYLES[style] for style in styles)}m{text}\033[0m"


def width(text):
    """Columns on the screen, without colour codes."""
    plain, inside = [], False
    for character in str(text):
        if character == "\033":
            inside = True
        elif inside:
            inside = character != "m"
        else:
            plain.append(character)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in plain)


def pad(text, columns, right=False):
    space = " " * max(0, columns - width(text))
    return f"{space}{text}" if right else f"{text}{space}"


def heading(number, text):
    print(f"\n{paint(f' {number} ', 'bold', 'cyan')}{paint(text, 'bold')}")


def say(text=""):
    print(f"   {text}" if text else "", flush=True)


def bytes_text(count):
    if count < 10_000:
        return f"{count:,} B"
    if count < 10_000_000:
        return f"{count / 1000:,.1f} kB"
    return f"{count / 1_000_000:,.1f} MB"


def table(titles, rows, right=()):
    """A table with light lines; `right` names the columns by number that are aligned to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(cells, style=None):
        cells = [pad(paint(cell, style) if style else cell, widths[i], i in right) for i, cell in enumerate(cells)]
        return "   " + paint("│", "dim").join(f" {cell} " for cell in cells)

    print(line(titles, "bold"))
    print("   " + paint("┼".join("─" * (w + 2) for w in widths), "dim"))
    for row in rows:
        print(line(row))
    sys.stdout.flush()
