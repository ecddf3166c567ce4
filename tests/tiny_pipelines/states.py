def rows(): return []
def measure(name): return {}
