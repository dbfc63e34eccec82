"""From a film to its summary: score, choose, cut, report."""
