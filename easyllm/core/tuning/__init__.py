"""What every stage that trains or loads a tuned model shares: adapters, quantised bases, their layers."""
