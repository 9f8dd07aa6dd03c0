"""In the PYTHONPATH of tests' trainings: what torch imports is not searched for garbage, then and again at the end.

That is a third of the time of a rank that does little more than import it.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
