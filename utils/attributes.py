"""The attributes that are predicted. Everything else loops over this table."""

from typing import NamedTuple, Tuple


class Attribute(NamedTuple):
    """One attribute of a garment, with one classification head and one block of prompts."""

    key: str  # in code, logs, metrics and checkpoints
    column: str  # in the data set's CSV
    short: str  # in the competition's submissions and in published checkpoints
    classes: Tuple[str, ...]  # in label order
    classes_ko: Tuple[str, ...]


ATTRIBUTES = {
    attribute.key: attribute
    for attribute in (
        Attribute(
            "daily",
            "Daily",
            "daily",
            ("loungewear", "light outing", "office look", "formal", "event", "sportswear"),
            ("실내복", "가벼운 외출", "오피스룩", "격식차린", "이벤트", "운동복"),
        ),
        Attribute(
            "gender",
            "Gender",
            "gender",
            ("mannish", "unisex", "girlish", "elegant", "sexy"),
            ("매니쉬", "유니섹스", "걸리쉬", "우아한", "섹시한"),
        ),
        Attribute(
            "embellishment",
            "Embellishment",
            "embel",
            ("none", "point", "heavy"),
            ("장식이 없는", "포인트 장식", "장식이 많은"),
        ),
    )
}


def num_classes():
    """Attribute key -> number of classes, in table order."""
    return {key: len(attribute.classes) for key, attribute in ATTRIBUTES.items()}
