"""Codecs: how the vectors of a round's sum become shorter, one file each."""
