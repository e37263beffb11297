"""Encoded video: the H.264 encoder, Annex-B access units, fragmented and plain MP4."""
