"""`verify`: are two sets of pictures the same within noise?"""
