"""The token log: what a request has said so far, in one Redis stream per request.

The id of a stream entry is ``<epoch>-<seq>``, so Redis itself keeps the order and a lower epoch can never
follow a higher one. ``append.lua`` and ``raise_epoch.lua`` say the rest. The stream is the truth, pub/sub the doorbell:
``writer`` appends and rings, ``follower`` listens and repairs what it missed from the stream.
"""
