"""How long UGRO takes, next to others that do the same: `make bench`. See docs/benchmarks.md."""
