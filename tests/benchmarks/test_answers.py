"""benchmarks.answers: labels that are changed, and how many of them a list finds."""

import json

from benchmarks import answers


def test_changed_labels_are_counted(place, capsys):
    content = {
        "image": "file",
        "unknown": [""],
        "attributes": {"kind": {"classes": {name: {} for name in "abc"}}},
    }
    (place / "shop.json").write_text(json.dumps(content))
    (place / "shop.csv").write_text(
        "file,kind\n\n" + "".join(f"{i}.png,{'abc '[i % 4]}\n" for i in range(400))
    )
    words = "--attributes shop.json --table shop.csv --output changed.csv --doubts doubts.csv".split()
    answers.main(["change", *words])
    before, after = ((place / name).read_text().splitlines() for name in ("shop.csv", "changed.csv"))
    changed = [row for row, (a, b) in enumerate(zip([before[0], *before[2:]], after)) if a != b]
    assert len(changed) == 15 and all(after[row][-1] in "abc" for row in changed)
    for share, rows in (
        (1, changed),
        (0.8, [*changed[:12], *[row + 1 for row in changed[:3]], *changed[12:]]),
    ):
        lines = "".join(f"{row + 2},kind\n" for row in rows)
        (place / "doubts.csv").write_text(f"row,attribute\n{lines}")
        answers.main(["count", *words])
        assert (
            f"of the first 15 of {len(rows)} doubted cells, {share:.4f} were changed"
            in capsys.readouterr().out
        )
