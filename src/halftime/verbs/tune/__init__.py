"""`tune`: which fixes reach my target with my quality? A recipe, and the evidence for it."""
