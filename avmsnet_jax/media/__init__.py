"""Films to frames and waveforms, and back."""
