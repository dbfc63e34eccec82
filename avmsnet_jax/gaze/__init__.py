"""From recordings of viewers' gaze to key frames."""
