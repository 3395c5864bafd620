"""Cells of tables of predictions."""

from utils.data.attributes import is_number

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # Excel takes wide ones for these


def table_text(cell):
    """A text as a cell of a table of predictions: one that a spreadsheet would take for a formula gets an apostrophe, as OWASP
    advises ("CSV injection"). Not for cells of a user's own table, which are found there again as they are."""
    return f"'{cell}" if cell.startswith(FORMULA) and not is_number(cell) else cell


def prediction_header(attributes, labels=False, probabilities=False):
    """Columns of a table of predictions, no two alike: photo, class of each attribute, and what is asked for.

    Args: with `labels`, `daily_label` ... follow; with `probabilities`, one for each class, `daily_0` ...
    """
    shorts = [attribute.short for attribute in attributes.values()]
    wanted = [attributes.layout.image, *shorts]
    if labels:
        wanted += [f"{short}_label" for short in shorts]
    if probabilities:
        wanted += [f"{a.short}_{number}" for a in attributes.values() for number in range(len(a.classes))]
    columns = []
    for column in map(table_text, wanted):
        while column in columns:
            column += "_2"
        columns.append(column)
    return columns


def probability_columns(results):
    """Cells of the columns of probabilities, in the header's order. Args: `results` of a `Classifier`."""
    return [[f"{p:.6f}" for p in column] for values in results.values() for column in values.T]
