"""Files of other programs: their pickles, checkpoints and configurations, read without running them."""
