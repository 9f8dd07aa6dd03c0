"""Random faults against UGRO on the sandbox, from a seed: `make chaos SEED=…`, and a short run in the tests."""
