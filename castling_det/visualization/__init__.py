"""All that draws boxes and label maps, of predictions and of the truth."""
