"""Labels that mean the same class are the same class, however a silo writes them."""

import pytest

from silofl.config import parse
from silofl.tasks.readers.labels import class_of, encode


def task(**keys):
    return parse({"task": keys}).task


@pytest.mark.parametrize(
    ("labels", "text", "expected"),
    [
        (["1", "2"], "2.0", 1),
        (["1.0", "2.0"], "2", 1),
        (["1.0", "2.0"], "2.00", 1),
        (["1", "1.0"], "1.0", 1),
        (["1", "1.0"], "01", -1),
        (["-1", "1"], "-1.0", 0),
        (["u\u0308ber", "unter"], "\u00fcber", 0),
        (["\u00fcber", "unter"], " u\u0308ber", 0),
        (["Yes", "No"], "yes", -1),
        (["0", "1"], "true", 1),
        (["no", "yes"], "nan", -1),
    ],
)
def test_a_label_and_its_class(labels, text, expected):
    assert class_of(task(labels=labels))(text) == expected


def test_words_for_missing_labels_are_missing_unless_they_are_classes():
    given = ["a", "NA", None, "x"]
    assert encode(given, task(labels=["a", "b"]), "it", "row", range(1, 5))[1] == [
        "it has 2 missing value(s) (rows 2 to 3): label those rows or remove them",
        "it has 1 value(s) that are not one of task.labels = ['a', 'b'] (row 4): correct them, or add them "
        "to task.labels at every silo",
    ]
    assert encode(given[:2], task(labels=["a", "NA"]), "it", "row", range(1, 3))[0].tolist() == [0, 1]
