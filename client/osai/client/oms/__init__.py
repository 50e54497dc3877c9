"""Signatures of the OpenSSF Model Signing format (OMS), by the `model-signing` library: the extra `osai[oms]`.

Nothing of the library is imported before a command needs it.
"""
