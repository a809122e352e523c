"""Learning curves on both databases."""

from __future__ import annotations

import itertools

import pytest

from store import curves
from store.database import Database
from store.records import Model, TrainingMetric


@pytest.fixture
def model_id(database: Database) -> str:
    with database.transaction() as session:
        session.add(
            Model(id="mdl_1", name="m", kind="gan-dcgan", resolution=32, channels=1, options={}, seed=0, metrics={})
        )
    return "mdl_1"


def add(database: Database, model_id: str, *images_seen: int, loss: float = 0.5) -> None:
    with database.transaction() as session:
        for images in images_seen:
            curves.add_point(
                session, model_id, images_seen=images, elapsed_s=images / 10, images_per_s=10.0, losses={"D": loss}
            )


def read(database: Database, model_id: str, most: int = 100) -> list[TrainingMetric]:
    with database.snapshot() as session:
        return curves.read_points(session, model_id, most=most)


def test_points_come_back_in_order(database: Database, model_id: str) -> None:
    add(database, model_id, 30, 10, 20)
    assert [(point.images_seen, point.elapsed_s, point.losses) for point in read(database, model_id)] == [
        (10, 1.0, {"D": 0.5}),
        (20, 2.0, {"D": 0.5}),
        (30, 3.0, {"D": 0.5}),
    ]


def test_a_second_point_at_the_same_count_replaces_the_first(database: Database, model_id: str) -> None:
    add(database, model_id, 10)
    add(database, model_id, 10, loss=0.25)
    assert [point.losses for point in read(database, model_id)] == [{"D": 0.25}]


@pytest.mark.parametrize(("count", "most"), [(1000, 10), (1000, 999), (1001, 500), (7, 3), (1, 2)])
def test_many_points_are_thinned_evenly_and_keep_the_newest(
    database: Database, model_id: str, count: int, most: int
) -> None:
    add(database, model_id, *range(1, count + 1))
    seen = [point.images_seen for point in read(database, model_id, most)]
    assert len(seen) <= most + 1
    assert seen[-1] == count
    gaps = {after - before for before, after in itertools.pairwise(seen[:-1])}
    assert len(gaps) <= 1


def test_points_with_scores_are_not_thinned_away(database: Database, model_id: str) -> None:
    add(database, model_id, *range(1, 101))
    with database.transaction() as session:
        for images in (33, 66):
            curves.add_point(
                session,
                model_id,
                images_seen=images,
                elapsed_s=1.0,
                images_per_s=1.0,
                losses={},
                gauges={"R_t": 0.5},
                scores={"fd_domain": float(images)},
            )
    points = read(database, model_id, 10)
    assert [point.images_seen for point in points] == sorted({*range(10, 101, 10), 33, 66})
    assert [point.scores for point in points if point.scores] == [{"fd_domain": 33.0}, {"fd_domain": 66.0}]
    assert points[3].gauges == {"R_t": 0.5}
    assert points[0].gauges is None


def test_going_on_from_a_checkpoint_forgets_what_came_after_it(database: Database, model_id: str) -> None:
    add(database, model_id, 10, 20, 30, 40)
    with database.transaction() as session:
        curves.cut_back(session, model_id, 20)
    assert [point.images_seen for point in read(database, model_id)] == [10, 20]


def test_the_curves_of_a_deleted_model_go_with_it(database: Database, model_id: str) -> None:
    add(database, model_id, 10)
    with database.transaction() as session:
        session.delete(session.get_one(Model, model_id))
    assert read(database, model_id) == []
