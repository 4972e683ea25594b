"""What the figures in README and docs/benchmarks.md come from: `make bench`."""
