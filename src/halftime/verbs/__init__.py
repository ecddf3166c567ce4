"""One folder a verb, named like its command, its page in docs/ and its folder in tests/verbs/."""
