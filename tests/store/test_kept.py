"""Checkpoints and previews of a training: a few, the dear ones always, and the model points at one of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from store import kept
from store.database import Database
from store.records import Model, TrainingCheckpoint, TrainingPreview

NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture
def model_id(database: Database) -> str:
    with database.transaction() as session:
        session.add(
            Model(id="mdl_1", name="m", kind="gan-dcgan", resolution=32, channels=1, options={}, seed=0, metrics={})
        )
    return "mdl_1"


def add(database: Database, *scored: tuple[int, float | None], most: int = 4) -> list[int]:
    for images_seen, score in scored:
        with database.transaction() as session:
            kept.add_checkpoint(
                session,
                session.get_one(Model, "mdl_1"),
                images_seen=images_seen,
                blob=f"models/mdl_1/{images_seen}",
                scores=None if score is None else {"fd_domain": score},
                now=NOW,
                most=most,
            )
    return [row.images_seen for row in rows(database)]


def rows(database: Database) -> list[TrainingCheckpoint]:
    with database.snapshot() as session:
        return kept.read_checkpoints(session, "mdl_1")


def model(database: Database) -> Model:
    with database.snapshot() as session:
        return session.get_one(Model, "mdl_1")


def test_a_model_follows_its_newest_checkpoint(database: Database, model_id: str) -> None:
    add(database, (10, None), (20, None))
    assert (model(database).checkpoint, model(database).images_seen) == ("models/mdl_1/20", 20)


def test_the_best_and_the_promoted_checkpoint_stay(database: Database, model_id: str) -> None:
    add(database, (10, 3.0), (20, 1.0), (30, 2.0))
    with database.transaction() as session:
        kept.promote(session.get_one(Model, "mdl_1"), kept.read_checkpoints(session, "mdl_1")[0], follow=False)
    left = add(database, *((images, 5.0) for images in range(40, 200, 10)))
    assert len(left) == 4
    assert {10, 20, 190} < set(left)
    assert (model(database).checkpoint, model(database).promoted) == ("models/mdl_1/10", 10)


def test_promoting_to_follow_lets_newer_ones_take_its_place(database: Database, model_id: str) -> None:
    add(database, (10, None))
    with database.transaction() as session:
        kept.promote(session.get_one(Model, "mdl_1"), kept.read_checkpoints(session, "mdl_1")[0], follow=True)
    add(database, (20, None))
    assert model(database).checkpoint == "models/mdl_1/20"


def test_a_score_may_come_later(database: Database, model_id: str) -> None:
    add(database, (10, None), (20, 2.0))
    with database.transaction() as session:
        kept.score_checkpoint(session, "mdl_1", 10, {"fd_domain": 1.0})
        kept.score_checkpoint(session, "mdl_1", 15, {"fd_domain": 0.5})
    best = kept.best(rows(database))
    assert best is not None
    assert best.images_seen == 10


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [((5.0, 2.0, 3.0), 1), ((5.0, 2.9, 3.0), None), ((5.0, 2.0, 3.0, None), 1), ((None,), None), ((3.0, 1.0), None)],
)
def test_only_a_clear_lead_counts(scores: tuple[float | None, ...], chosen: int | None) -> None:
    made = [
        TrainingCheckpoint(images_seen=number, scores=None if score is None else {"fd_domain": score})
        for number, score in enumerate(scores)
    ]
    found = kept.clearly_better(made)
    assert (found.images_seen if found is not None else None) == chosen


def test_previews_are_thinned_from_the_first_to_the_newest(database: Database, model_id: str) -> None:
    for images_seen in range(10, 500, 10):
        with database.transaction() as session:
            left = kept.add_preview(
                session,
                session.get_one(Model, "mdl_1"),
                images_seen=images_seen,
                blob=f"models/mdl_1/previews/{images_seen}.png",
                now=NOW,
                most=5,
            )
    assert len(left) == 5
    assert (left[0].images_seen, left[-1].images_seen) == (10, 490)
    assert model(database).preview == left[-1].blob


def test_going_on_forgets_what_came_after(database: Database, model_id: str) -> None:
    add(database, (10, None), (20, None))
    with database.transaction() as session:
        session.add(TrainingPreview(model_id="mdl_1", images_seen=15, blob="x"))
        kept.cut_back(session, "mdl_1", 10)
    assert [row.images_seen for row in rows(database)] == [10]
    with database.snapshot() as session:
        assert kept.read_previews(session, "mdl_1") == []


def test_what_is_thinned_again_and_again_stays_about_even() -> None:
    counts: set[int] = set()
    for count in range(1, 1001):
        counts = kept.thinned({*counts, count}, 10, {1, count})
    gaps = [after - before for before, after in zip(sorted(counts)[:-1], sorted(counts)[1:], strict=True)]
    assert len(counts) == 10
    assert max(gaps) <= 4 * 1000 / 9


def test_more_dear_ones_than_there_is_room_for_all_stay() -> None:
    assert kept.thinned([1, 2, 3, 4], 2, {1, 2, 3}) == {1, 2, 3, 4}
