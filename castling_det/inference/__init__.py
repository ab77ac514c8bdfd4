"""Images in, predictions and pictures out."""
