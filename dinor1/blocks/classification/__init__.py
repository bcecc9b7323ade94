"""Small image classifiers and MNIST, used by the configs of several blocks to train within minutes."""
