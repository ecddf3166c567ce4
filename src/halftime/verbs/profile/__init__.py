"""`profile`: where does the time of one call go? A ledger of stages that adds up to the wall
clock."""
