"""What keeps runbooks true: one module for each kind of rot. Nothing here changes anything, anywhere."""
