"""One silo's local work: batches, training, evaluation, and the model as one flat vector."""
