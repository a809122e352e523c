"""Class names from where images lie."""

from __future__ import annotations

from collections.abc import Sequence


def class_names(paths: Sequence[str]) -> list[str | None] | None:
    """The class folder of each image: the first folder below the one that holds them all.

    Folders are entered from the top while there is only one. Where images then lie in two or more, these are the classes.
    A picture beside the class folders (a cover, a preview) has no class. When half of all images have none, the folders
    were not meant as classes.

    Args:
        paths: of the images, "/" between folders.

    Returns:
        a name or None for each path; None as a whole when there are no classes.
    """
    parts = [path.split("/") for path in paths]
    inside = list(range(len(parts)))  # images at or below the folder looked at
    depth = 0
    while True:
        deeper = [index for index in inside if len(parts[index]) > depth + 1]
        folders = {parts[index][depth] for index in deeper}
        if len(folders) != 1:
            break
        inside, depth = deeper, depth + 1
    if len(folders) < 2 or len(deeper) * 2 <= len(parts):
        return None
    names: list[str | None] = [None] * len(parts)
    for index in deeper:
        names[index] = parts[index][depth]
    return names
