"""Evaluation of trained networks: errors on test images, and predictions for single pictures.

Modules in reading order: tally (loss and errors over batches), trained (networks from checkpoints), views
(parts of an image whose probabilities are averaged), answers (confusion, errors of classes, worst mistakes),
ensemble (one network or several on test images), predictions (picture files), segmentation (label images of
pictures of any size).
"""

from __future__ import annotations

from cconvnet.evaluate.answers import (
    Answer,
    Answers,
    ClassResult,
    Confusion,
    PixelAnswers,
    PixelFigures,
    answers_for,
    readable_names,
)
from cconvnet.evaluate.ensemble import Ensemble, Evaluation, Result, Stepped, evaluate_run, evaluate_runs
from cconvnet.evaluate.predictions import (
    image_views,
    not_turned,
    predict,
    predict_each,
    read_each,
    read_picture,
)
from cconvnet.evaluate.segmentation import Segmenter, segment_each
from cconvnet.evaluate.tally import Tally, evaluate
from cconvnet.evaluate.trained import (
    Trained,
    check_images,
    check_source,
    load_trained,
    network_tensors,
    recorded_preprocessing,
    restore,
    trained_of,
)
from cconvnet.evaluate.views import (
    VIEWS,
    View,
    center_view,
    check_views,
    judge,
    mean_probabilities,
    views_of,
)

__all__ = [
    "VIEWS",
    "Answer",
    "Answers",
    "ClassResult",
    "Confusion",
    "Ensemble",
    "Evaluation",
    "PixelAnswers",
    "PixelFigures",
    "Result",
    "Segmenter",
    "Stepped",
    "Tally",
    "Trained",
    "View",
    "answers_for",
    "center_view",
    "check_images",
    "check_source",
    "check_views",
    "evaluate",
    "evaluate_run",
    "evaluate_runs",
    "image_views",
    "judge",
    "load_trained",
    "mean_probabilities",
    "network_tensors",
    "not_turned",
    "predict",
    "predict_each",
    "read_each",
    "read_picture",
    "readable_names",
    "recorded_preprocessing",
    "restore",
    "segment_each",
    "trained_of",
    "views_of",
]
