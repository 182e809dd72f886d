"""Trained models on new data: what a model file says of itself, loading, predictions, evaluation, ONNX."""
