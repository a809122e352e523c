"""A plain PyTorch library of generators: kinds, one training loop, sampling. Knows no web, queue or database."""
