"""Will it fit: what a job needs of each GPU's memory, from formulas and from what equal runs took."""
