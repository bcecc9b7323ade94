"""Small image classifiers and MNIST: what the configs of several blocks train, to try them in minutes."""
