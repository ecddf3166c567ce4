"""`serve`: an image server: warm before ready, preview then final, nothing lost."""
