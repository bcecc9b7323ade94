"""Small image classifiers and MNIST, which the configs of several blocks train within minutes."""
