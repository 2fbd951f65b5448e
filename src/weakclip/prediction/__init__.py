"""Masks of any images by a trained network: one image at a time, or whole folders into files."""

from weakclip.prediction.files import Outputs, PredictionSummary, predict_files
from weakclip.prediction.inputs import InputImage, find_images
from weakclip.prediction.models import ModelSource, find_model
from weakclip.prediction.predictor import Prediction, Predictor, PredictSettings, load_predictor

__all__ = [
    "InputImage",
    "ModelSource",
    "Outputs",
    "PredictSettings",
    "Prediction",
    "PredictionSummary",
    "Predictor",
    "find_images",
    "find_model",
    "load_predictor",
    "predict_files",
]
