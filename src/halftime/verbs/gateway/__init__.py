"""`gateway`: what does the proxy in front cost? Both ways in one run, shuffled and interleaved."""
