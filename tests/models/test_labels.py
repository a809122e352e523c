"""Class names come from the first folder below the one that holds all images."""

from __future__ import annotations

import pytest

from models.labels import class_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["cat/1", "dog/1"], ["cat", "dog"]),
        (["set/cat/1", "set/dog/1"], ["cat", "dog"]),
        (["a/b/cat/1", "a/b/dog/1", "a/b/dog/2"], ["cat", "dog", "dog"]),
        (["cat/old/1", "cat/new/1", "dog/1"], ["cat", "cat", "dog"]),
    ],
)
def test_images_in_two_or_more_folders_are_labelled(paths: list[str], names: list[str]) -> None:
    assert class_names(paths) == names


@pytest.mark.parametrize(
    "paths", [[], ["1"], ["1", "2"], ["set/1", "set/2"], ["a/b/c/1"], ["set/1", "set/2", "set/old/3"]]
)
def test_images_in_one_folder_are_not(paths: list[str]) -> None:
    assert class_names(paths) is None


def test_a_picture_beside_the_class_folders_has_no_class() -> None:
    assert class_names(["cat/1", "cat/2", "cover", "dog/1"]) == ["cat", "cat", None, "dog"]
    assert class_names(["cover", "set/cat/1", "set/cat/2", "set/dog/1"]) == [None, "cat", "cat", "dog"]


def test_folders_are_no_classes_when_half_of_the_images_lie_beside_them() -> None:
    assert class_names(["1", "2", "cat/1", "dog/1"]) is None
