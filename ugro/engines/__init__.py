"""Ways to run the attempts of jobs on machines. `base.py` says what each of them is asked."""
