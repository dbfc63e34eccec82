"""The studio: a local web page that lists summaries, edits their cuts, cuts them again and summarizes new films."""
