"""Reading and checking configs, and starting what they describe."""
