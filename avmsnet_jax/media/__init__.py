"""Reads films to frames and waveforms, and writes them."""
