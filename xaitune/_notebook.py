"""How a table looks in a notebook."""

import pandas as pd

from xaitune._names import short_file

ROWS = 20


def table_html(table: pd.DataFrame, *, digits: int = 3, index: bool = False) -> str:
    """The first ROWS rows of a table as HTML, rounded, files by their short names, and a line if rows are left out.

    Examples:
        >>> table_html(pd.DataFrame({"file": ["/data/crack/part1.png"], "weight": [0.12345]})).count("crack/part1.png")
        1
    """
    shown = table.head(ROWS)
    if "file" in shown:
        shown = shown.assign(file=shown["file"].map(short_file))
    left_out = (
        f"<p>{ROWS} of {len(table):,} rows; <code>to_dataframe()</code> has all.</p>" if len(table) > ROWS else ""
    )
    return shown.round(digits).to_html(index=index, na_rep="-") + left_out
