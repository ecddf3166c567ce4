"""What everything stands on; imports nothing of ours but itself and `records`."""
