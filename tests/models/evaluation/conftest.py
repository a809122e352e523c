"""One data set and its extractor for all tests of this room."""

from __future__ import annotations

import pytest
import torch

from models.data import PreparedImages
from models.evaluation import Extractor, train_extractor
from tests.pictures import prepared_shapes


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    """Six hundred discs, squares and rings."""
    torch.set_num_threads(1)
    return PreparedImages.open(prepared_shapes(tmp_path_factory.mktemp("shapes"), 600, channels=1, classes=3))


@pytest.fixture(scope="session")
def extractor(data: PreparedImages) -> Extractor:
    return train_extractor(data, 32, lesson_images=4000)
