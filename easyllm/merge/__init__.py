"""An adapter and its base become one model, proven by parity."""
