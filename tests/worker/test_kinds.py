"""Every kind in the catalogue goes through the workers, which know none of them."""

from __future__ import annotations

import pytest

from models.catalog import KINDS
from store.queue import Lane
from store.records import JobStatus
from tests.worker.conftest import Desk
from worker.running import Station, run_queued
from worker.sampler import SliceSampler
from worker.training import train_model


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_trained_and_then_sampled(kind: str, station: Station, desk: Desk) -> None:
    desk.dataset()
    training = desk.train_job(images=16, kind=kind)
    run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(training).status is JobStatus.SUCCEEDED
    sampling = desk.sample_job(3, label=1, model="mdl_new")
    SliceSampler(station).serve()
    assert (desk.job(sampling).status, desk.job(sampling).result) == (JobStatus.SUCCEEDED, {"images": 3})
