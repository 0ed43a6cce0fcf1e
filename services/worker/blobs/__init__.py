"""The worker's verified cache of blobs, which it shares with its peers."""
