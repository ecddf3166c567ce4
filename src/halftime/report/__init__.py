"""Drawing is a function of data: a verb's result becomes a `Report`, and console, markdown and HTML
draw any Report."""
