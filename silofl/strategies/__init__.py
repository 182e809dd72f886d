"""The federation's step on the global model, one slice a rank."""
