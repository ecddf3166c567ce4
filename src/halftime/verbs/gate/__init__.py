"""`gate`: is this version slower, does it wait more, are its pictures others?"""
