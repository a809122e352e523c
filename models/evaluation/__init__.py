"""How good a generator is, measured offline: nothing is downloaded, every number comes with its floor and its N."""

from models.evaluation.extractor import Extractor, find_extractor, kept_extractor, train_extractor
from models.evaluation.gallery import Gallery
from models.evaluation.inception import Inception
from models.evaluation.live import LiveMeasure, live_measure
from models.evaluation.measuring import MOST_GENERATED, evaluate
from models.evaluation.quick import QUICK_N, QuickMeasure, QuickScores
from models.evaluation.report import MEASURES, Evaluation, Measure, Score
from models.evaluation.strips import strips

__all__ = [
    "MEASURES",
    "MOST_GENERATED",
    "QUICK_N",
    "Evaluation",
    "Extractor",
    "Gallery",
    "Inception",
    "LiveMeasure",
    "Measure",
    "QuickMeasure",
    "QuickScores",
    "Score",
    "evaluate",
    "find_extractor",
    "kept_extractor",
    "live_measure",
    "strips",
    "train_extractor",
]
