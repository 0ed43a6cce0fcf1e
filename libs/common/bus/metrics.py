"""What the bus counts."""

from prometheus_client import Counter

messages_total = Counter("bus_messages_total", "Messages handled", ["verb", "message", "outcome"])
dead_letters_total = Counter("bus_dead_letters_total", "Messages this process gave up", ["message", "reason"])
