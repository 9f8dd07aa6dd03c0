"""Training metrics of unchanged scripts: read from log lines, merged with what files say. Pure (docs/metrics.md)."""
