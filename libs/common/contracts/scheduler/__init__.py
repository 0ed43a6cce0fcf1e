"""What the scheduler obeys, answers and announces."""
