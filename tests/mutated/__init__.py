"""Files changed at random, and the commands that read them watched."""
